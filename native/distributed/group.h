// Ranks that train together: how they meet, how each knows that the others live, what they compute together, and how it
// all ends when one is gone. lib/distributed decides what a silence means; nothing here waits for ever.
#pragma once
#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>

#include "distributed/store.h"

namespace memformer::distributed {

struct Membership {
  int rank = 0, world = 1;
  StoreAddress store;
  bool hosts_store = false;  ///< whether this process opens the store, rather than rank 0 or a launcher elsewhere
  at::Device device = at::kCPU;
  double start_limit = 300;  ///< seconds until all have met, and the first collective is through
  double limit = 100;        ///< seconds that any later collective may take
  double period = 2;         ///< seconds between two signs of life
  std::string says;          ///< what goes with them, until say() changes it
};

/// What is known of a rank: seconds since its last sign of life, and what it said with it.
struct Pulse {
  double age = 0;
  std::string says;
};

struct Pulses {
  double store_age = 0;       ///< seconds since the store last answered
  std::string store_failure;  ///< why it never will again; "" while it may
  std::vector<Pulse> ranks;
};

/// Calls of the store may be made on any thread; collectives on one, in the same order on every rank. Failures are
/// DISTRIBUTED, ABORTED after abort().
class Group : public std::enable_shared_from_this<Group> {
 public:
  explicit Group(Membership membership) : membership_(std::move(membership)) {}
  ~Group();

  /// Meets the others: the store, everybody's name, the transport. Blocks. Throws DISTRIBUTED naming who is missing.
  void join();

  void set(const std::string& key, const std::string& value);
  int64_t add(const std::string& key, int64_t number);
  /// Waits until the key is there, at most `seconds`; none: it never came.
  std::optional<std::string> get(const std::string& key, double seconds);

  /// Sums over the ranks, in place. Blocks, on a GPU only until it is enqueued.
  void all_reduce(const at::Tensor& tensor, const std::string& collective);
  /// Copies rank root's into everybody's, in place.
  void broadcast(const at::Tensor& tensor, int root, const std::string& collective);
  /// Copies every rank's part of a tensor (n) into everybody's, in place; see Collectives::all_gather.
  void all_gather(const at::Tensor& tensor, const std::vector<int64_t>& ends, const std::string& collective);

  /// What goes with every sign of life from now on.
  void say(const std::string& words);
  Pulses pulses() const;

  /// Whatever waits here fails with `reason` at once; so does everything later. Idempotent.
  void abort(const std::string& reason);
  /// Ends the signs of life and frees the connections; no collective may be under way. Idempotent.
  void leave();

  const Membership& membership() const { return membership_; }

 private:
  using Clock = std::chrono::steady_clock;
  struct Heart;  // what its thread needs, which may outlive the group

  void check() const;
  std::shared_ptr<Store> meet();
  std::unique_ptr<Collectives> connect();
  void run(const std::string& collective, const std::function<void(Collectives&, Collectives::Done)>& start);
  void pause(double seconds) const;

  Membership membership_;
  std::shared_ptr<Store> store_;
  std::shared_ptr<Heart> heart_;
  std::shared_ptr<Collectives> transport_;
  bool warm_ = false;  // whether a collective has been through
  mutable std::mutex mutex_;
  mutable std::condition_variable wake_;
  std::optional<std::string> aborted_;
};

}  // namespace memformer::distributed
