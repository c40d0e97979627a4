#include "distributed/group.h"

#include <thread>

#include "core/cuda.h"
#include "core/failure.h"
#include "distributed/local_address.h"

namespace memformer::distributed {
namespace {

constexpr double kAttempt = 2;    // seconds of one attempt to reach the store, between which an abort is heard
constexpr double kGlance = 0.02;  // seconds between two looks for a key, at first
constexpr double kSlowest = 0.5;  // and at last

double seconds_since(std::chrono::steady_clock::time_point then) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - then).count();
}

std::string key_of(const char* what, int rank) { return std::string(what) + "/" + std::to_string(rank); }

}  // namespace

/// Sends this rank's signs of life and takes in those of the others, over a connection of its own: a call that waits
/// for a key holds nothing up.
struct Group::Heart {
  std::shared_ptr<Store> store;
  int rank, world;
  double period;
  mutable std::mutex mutex;
  std::condition_variable wake;
  bool stopped = false;
  std::string says;
  Clock::time_point answered = Clock::now();
  std::string failure;
  struct Last {
    std::string number, says;
    Clock::time_point seen = Clock::now();
  };
  std::vector<Last> last;

  /// One sign of life, "<number> <words>", and a look at all others'. Returns the words.
  std::string beat(int64_t number) {
    std::string words;
    {
      std::lock_guard lock(mutex);
      words = says;
    }
    store->set(key_of("pulse", rank), std::to_string(number) + " " + words);
    std::vector<std::string> keys;
    for (int other = 0; other < world; ++other) keys.push_back(key_of("pulse", other));
    const auto values = store->get_all(keys);
    std::lock_guard lock(mutex);
    answered = Clock::now();
    for (size_t other = 0; other < last.size(); ++other) {
      const auto space = values[other].find(' ');
      auto counted = values[other].substr(0, space);
      if (counted != last[other].number) last[other].seen = answered;
      last[other].number = std::move(counted);
      last[other].says = values[other].substr(space + 1);
    }
    return words;
  }

  void loop() {
    try {
      for (int64_t number = 1;; ++number) {
        const auto before = beat(number);
        std::unique_lock lock(mutex);
        wake.wait_for(lock, std::chrono::duration<double>(period), [&] { return stopped || says != before; });
        if (stopped) return;
      }
    } catch (const std::exception& error) {
      std::lock_guard lock(mutex);
      failure = error.what();
    }
  }
};

Group::~Group() { leave(); }

void Group::check() const {
  std::lock_guard lock(mutex_);
  if (aborted_) throw Failure("DISTRIBUTED", *aborted_);
}

/// Sleeps, unless abort() ends it.
void Group::pause(double seconds) const {
  std::unique_lock lock(mutex_);
  wake_.wait_for(lock, std::chrono::duration<double>(seconds), [this] { return aborted_.has_value(); });
  if (aborted_) throw Failure("DISTRIBUTED", *aborted_);
}

std::shared_ptr<Store> Group::meet() {
  const auto& address = membership_.store;
  const auto began = Clock::now();
  for (;;) {
    check();
    const double left = membership_.start_limit - seconds_since(began);
    require(left > 0, "DISTRIBUTED", "rank ", membership_.rank, " of ", membership_.world, ": nothing answers at ",
            address.host, ":", address.port, " within ", membership_.start_limit,
            " s, where the ranks' store should be: is rank 0 running, and does its port let others in?");
    if (auto store = reach_store(address, std::min(left, kAttempt))) return store;
    pause(kGlance);
  }
}

void Group::join() {
  const auto& [rank, world, address, hosts, device, start_limit, limit, period, says] = membership_;
  const auto began = Clock::now();
  std::shared_ptr<Store> hosted;
  if (hosts) hosted = host_store(address);
  auto store = hosts ? hosted : meet();
  {
    std::lock_guard lock(mutex_);
    store_ = store;
  }
  const auto size = store->claim("world", std::to_string(world));
  require(size == std::to_string(world), "DISTRIBUTED", "rank ", rank, " was told of ", world, " ranks, another of ",
          size, ": WORLD_SIZE must be the same on all");
  require(store->add(key_of("seat", rank), 1) == 1, "DISTRIBUTED", "two processes call themselves rank ", rank, " of ",
          world, ": RANK must differ");
  store->set(key_of("pulse", rank), "0 " + says);
  for (int other = 0; other < world; ++other) {
    const double left = std::max(0.0, start_limit - seconds_since(began));
    require(get(key_of("pulse", other), left).has_value(), "DISTRIBUTED", "rank ", other, " of ", world,
            " has not joined within ", start_limit, " s");
  }
  auto heart = std::make_shared<Heart>();
  heart->store = hosts ? reach_store({"127.0.0.1", address.port, address.prefix}, start_limit) : meet();
  require(heart->store != nullptr, "DISTRIBUTED", "the ranks' store does not answer on port ", address.port);
  heart->rank = rank;
  heart->world = world;
  heart->period = period;
  heart->says = says;
  heart->last.resize(static_cast<size_t>(world));
  std::thread([heart] { heart->loop(); }).detach();
  {
    std::lock_guard lock(mutex_);
    heart_ = heart;
  }
  std::shared_ptr<Collectives> transport = connect();
  check();
  std::lock_guard lock(mutex_);
  transport_ = std::move(transport);
}

std::unique_ptr<Collectives> Group::connect() {
  const auto& [rank, world, address, hosts, device, start_limit, limit, period, says] = membership_;
  if (device.is_cpu()) return gloo(*store_, rank, world, local_address(address.host), start_limit + limit);
  compute_on(device);
  return cuda()->nccl(device.has_index() ? device.index() : 0,
                      {rank, world, [this](const std::string& bytes) {
                         if (!bytes.empty()) set("nccl", bytes);
                         const auto found = get("nccl", membership_.start_limit);
                         require(found.has_value(), "DISTRIBUTED", "rank 0 has not named its NCCL communicator within ",
                                 membership_.start_limit, " s");
                         return *found;
                       }});
}

void Group::set(const std::string& key, const std::string& value) {
  check();
  store_->set(key, value);
}

int64_t Group::add(const std::string& key, int64_t number) {
  check();
  return store_->add(key, number);
}

std::optional<std::string> Group::get(const std::string& key, double seconds) {
  const auto began = Clock::now();
  for (double nap = kGlance;; nap = std::min(kSlowest, 1.5 * nap)) {
    check();
    if (store_->has(key)) return store_->get(key);
    const double left = seconds - seconds_since(began);
    if (left <= 0) return std::nullopt;
    pause(std::min(left, nap));
  }
}

void Group::run(const std::string& collective, const std::function<void(Collectives&, Collectives::Done)>& start) {
  struct Outcome {
    bool done = false;
    std::string failure;
  };
  check();
  const double limit = warm_ ? membership_.limit : membership_.start_limit;
  const auto outcome = std::make_shared<Outcome>();
  const auto self = shared_from_this();
  std::shared_ptr<Collectives> transport;
  {
    std::lock_guard lock(mutex_);
    transport = transport_;
  }
  require(transport != nullptr, "DISTRIBUTED", collective, ": rank ", membership_.rank, " has left the group");
  start(*transport, [self, outcome](const std::string& failure) {
    std::lock_guard lock(self->mutex_);
    outcome->done = true;
    outcome->failure = failure;
    self->wake_.notify_all();
  });
  std::unique_lock lock(mutex_);
  const bool in_time =
      wake_.wait_for(lock, std::chrono::duration<double>(limit), [&] { return aborted_.has_value() || outcome->done; });
  if (aborted_ && !outcome->done) throw Failure("DISTRIBUTED", *aborted_);
  require(in_time, "DISTRIBUTED", collective, ": not all ranks have come to it within ", limit, " s");
  require(outcome->failure.empty(), "DISTRIBUTED", collective, " failed: ", outcome->failure);
  warm_ = true;
}

void Group::all_reduce(const at::Tensor& tensor, const std::string& collective) {
  require(tensor.is_contiguous(), "NATIVE", collective, " takes a contiguous tensor");
  run(collective,
      [&](Collectives& transport, Collectives::Done done) { transport.all_reduce(tensor, std::move(done)); });
}

void Group::broadcast(const at::Tensor& tensor, int root, const std::string& collective) {
  require(tensor.is_contiguous(), "NATIVE", collective, " takes a contiguous tensor");
  run(collective,
      [&](Collectives& transport, Collectives::Done done) { transport.broadcast(tensor, root, std::move(done)); });
}

void Group::all_gather(const at::Tensor& tensor, const std::vector<int64_t>& ends, const std::string& collective) {
  require(tensor.is_contiguous() && tensor.dim() == 1 && ends.size() == static_cast<size_t>(membership_.world) &&
              ends.back() <= tensor.numel(),
          "NATIVE", collective, " takes a contiguous list, and where each rank's part of it ends");
  run(collective,
      [&](Collectives& transport, Collectives::Done done) { transport.all_gather(tensor, ends, std::move(done)); });
}

void Group::say(const std::string& words) {
  std::lock_guard lock(mutex_);
  if (!heart_) return;
  std::lock_guard beating(heart_->mutex);
  heart_->says = words;
  heart_->wake.notify_all();
}

Pulses Group::pulses() const {
  std::lock_guard lock(mutex_);
  Pulses pulses;
  if (!heart_) return pulses;
  std::lock_guard beating(heart_->mutex);
  pulses.store_age = seconds_since(heart_->answered);
  pulses.store_failure = heart_->failure;
  for (const auto& [number, says, seen] : heart_->last) pulses.ranks.push_back({seconds_since(seen), says});
  return pulses;
}

void Group::abort(const std::string& reason) {
  std::shared_ptr<Collectives> transport;
  {
    std::lock_guard lock(mutex_);
    if (aborted_) return;
    aborted_ = reason;
    transport = std::move(transport_);
  }
  wake_.notify_all();
  if (!transport) return;
  std::thread([transport] { transport->abort(); }).detach();  // it may hang where it gives up
}

void Group::leave() {
  std::shared_ptr<Heart> heart;
  std::shared_ptr<Collectives> transport;
  {
    std::lock_guard lock(mutex_);
    heart = std::move(heart_);
    transport = std::move(transport_);
  }
  if (!heart) return;
  std::lock_guard lock(heart->mutex);
  heart->stopped = true;
  heart->wake.notify_all();
}

}  // namespace memformer::distributed
