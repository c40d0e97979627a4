// One thread and its queue: what is added runs in that order.
#pragma once
#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace memformer::engine {

class Worker {
 public:
  /// `begin` runs on the thread before all else. The thread starts with the first step.
  explicit Worker(std::function<void()> begin = [] {}) : begin_(std::move(begin)) {}
  ~Worker() { stop(); }

  /// Runs `step` on the thread, after those that were added before; not at all after stop().
  void add(std::function<void()> step);

  /// Whether the caller is that thread.
  bool is_current() const { return id_.load() == std::this_thread::get_id(); }

  /// Drops what waits, lets the step that runs finish, joins the thread. Idempotent.
  void stop();

 private:
  void loop();

  std::function<void()> begin_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;
  bool stopping_ = false;
  std::thread thread_;
  std::atomic<std::thread::id> id_{};  // of the thread, for those who ask while it is joined
};

}  // namespace memformer::engine
