#include "engine/worker.h"

namespace memformer::engine {

void Worker::add(std::function<void()> step) {
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return;
    queue_.push_back(std::move(step));
    if (!thread_.joinable()) thread_ = std::thread([this] { loop(); });
  }
  wake_.notify_one();
}

void Worker::stop() {
  std::deque<std::function<void()>> dropped;
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    dropped.swap(queue_);
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void Worker::loop() {
  id_.store(std::this_thread::get_id());
  begin_();
  for (;;) {
    std::function<void()> step;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (stopping_) return;
      step = std::move(queue_.front());
      queue_.pop_front();
    }
    step();
  }
}

}  // namespace memformer::engine
