#ifndef USE_C10D_GLOO
#define USE_C10D_GLOO
#endif
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <mutex>
#include <utility>

#include "core/failure.h"
#include "distributed/store.h"

namespace memformer::distributed {
namespace {

using Bytes = std::vector<uint8_t>;
using std::chrono::milliseconds;

constexpr double kRequest = 300;  // seconds that an exchange with a live store may take

Bytes bytes_of(const std::string& text) { return Bytes(text.begin(), text.end()); }
std::string text_of(const Bytes& bytes) { return std::string(bytes.begin(), bytes.end()); }
milliseconds of_seconds(double seconds) { return milliseconds(static_cast<int64_t>(1000 * seconds)); }

/// LibTorch's words without the trace behind them.
std::string words(const std::exception& error) {
  const auto* of_torch = dynamic_cast<const c10::Error*>(&error);
  const std::string all = of_torch == nullptr ? error.what() : of_torch->what_without_backtrace();
  return all.substr(0, all.find('\n'));
}

class TcpStore final : public Store {
 public:
  TcpStore(const StoreAddress& address, bool hosts, double seconds) : address_(address) {
    c10d::TCPStoreOptions options;
    options.port = static_cast<uint16_t>(address.port);
    options.isServer = hosts;
    options.waitWorkers = false;
    options.timeout = of_seconds(seconds);
    tcp_ = c10::make_intrusive<c10d::TCPStore>(hosts ? "127.0.0.1" : address.host, options);
    tcp_->setTimeout(of_seconds(kRequest));
    store_ = c10::make_intrusive<c10d::PrefixStore>(address.prefix, tcp_);
  }

  void set(const std::string& key, const std::string& value) override {
    ask([&] { store_->set(key, bytes_of(value)); });
  }
  bool has(const std::string& key) override {
    bool found = false;
    ask([&] { found = store_->check({key}); });
    return found;
  }
  std::string get(const std::string& key) override {
    Bytes value;
    ask([&] { value = store_->get(key); });
    return text_of(value);
  }
  std::vector<std::string> get_all(const std::vector<std::string>& keys) override {
    std::vector<std::string> values;
    ask([&] {
      for (const auto& value : store_->multiGet(keys)) values.push_back(text_of(value));
    });
    return values;
  }
  int64_t add(const std::string& key, int64_t number) override {
    int64_t sum = 0;
    ask([&] { sum = store_->add(key, number); });
    return sum;
  }
  std::string claim(const std::string& key, const std::string& value) override {
    Bytes found;
    ask([&] { found = store_->compareSet(key, {}, bytes_of(value)); });
    return text_of(found);
  }

  const c10::intrusive_ptr<c10d::Store>& c10d() const { return store_; }

 private:
  template <typename Exchange>
  void ask(Exchange exchange) {
    try {
      exchange();
    } catch (const std::exception& error) {
      require(false, "DISTRIBUTED", "the store at ", address_.host, ":", address_.port,
              " does not answer any more: ", words(error));
    }
  }

  StoreAddress address_;
  c10::intrusive_ptr<c10d::TCPStore> tcp_;
  c10::intrusive_ptr<c10d::Store> store_;
};

class Gloo final : public Collectives {
 public:
  explicit Gloo(c10::intrusive_ptr<c10d::ProcessGroupGloo> group) : group_(std::move(group)) {}

  void all_reduce(at::Tensor tensor, Done done) override {
    std::vector<at::Tensor> tensors{tensor};
    finish(group_->allreduce(tensors), std::move(done));
  }

  void broadcast(at::Tensor tensor, int root, Done done) override {
    std::vector<at::Tensor> tensors{tensor};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    finish(group_->broadcast(tensors, options), std::move(done));
  }

  void all_gather(at::Tensor tensor, const std::vector<int64_t>& ends, Done done) override {
    struct Parts {
      std::mutex mutex;
      size_t open = 1;  // the last one closes when all have been started
      bool told = false;
    };
    const auto parts = std::make_shared<Parts>();
    const auto close = [parts, done = std::move(done)](const std::string& failure) {
      {
        std::lock_guard lock(parts->mutex);
        if (--parts->open > 0 && failure.empty()) return;
        if (std::exchange(parts->told, true)) return;
      }
      done(failure);
    };
    int64_t begin = 0;
    for (size_t rank = 0; rank < ends.size(); begin = ends[rank++]) {
      if (ends[rank] == begin) continue;
      {
        std::lock_guard lock(parts->mutex);
        ++parts->open;
      }
      broadcast(tensor.narrow(0, begin, ends[rank] - begin), static_cast<int>(rank), close);
    }
    close("");
  }

  /// A thread of Gloo's may stay in a read until its limit, and whoever frees the group waits for that: nobody does.
  void abort() override { [[maybe_unused]] auto* kept = c10::intrusive_ptr<c10d::ProcessGroupGloo>(group_).release(); }

 private:
  static void finish(const c10::intrusive_ptr<c10d::Work>& work, Done done) {
    work->getFuture()->addCallback([done = std::move(done)](c10::ivalue::Future& future) {
      std::string failure;
      if (future.hasError()) {
        failure = future.tryRetrieveErrorMessage();
        failure = failure.substr(0, failure.find('\n'));
      }
      done(failure);
    });
  }

  c10::intrusive_ptr<c10d::ProcessGroupGloo> group_;
};

}  // namespace

std::shared_ptr<Store> host_store(const StoreAddress& address) {
  try {
    return std::make_shared<TcpStore>(address, /*hosts=*/true, kRequest);
  } catch (const std::exception& error) {
    const auto why = words(error);
    require(why.find("EADDRINUSE") == std::string::npos && why.find("in use") == std::string::npos, "DISTRIBUTED",
            "port ", address.port,
            " of this machine is in use, and the ranks' store needs it: choose another MASTER_PORT");
    require(false, "DISTRIBUTED", "the ranks' store cannot listen on port ", address.port, ": ", why);
  }
  return nullptr;
}

std::shared_ptr<Store> reach_store(const StoreAddress& address, double seconds) {
  try {
    return std::make_shared<TcpStore>(address, /*hosts=*/false, seconds);
  } catch (const std::exception&) {
    return nullptr;  // not there yet, or something else listens there
  }
}

std::unique_ptr<Collectives> gloo(Store& store, int rank, int world, const std::string& host, double seconds) {
  try {
    auto options = c10d::ProcessGroupGloo::Options::create(of_seconds(seconds));
    const char* interface = std::getenv("GLOO_SOCKET_IFNAME");
    options->devices.push_back(interface != nullptr && *interface != '\0'
                                   ? c10d::ProcessGroupGloo::createDeviceForInterface(interface)
                                   : c10d::ProcessGroupGloo::createDeviceForHostname(host));
    const auto keys = c10::make_intrusive<c10d::PrefixStore>("gloo", dynamic_cast<TcpStore&>(store).c10d());
    return std::make_unique<Gloo>(c10::make_intrusive<c10d::ProcessGroupGloo>(keys, rank, world, options));
  } catch (const std::exception& error) {
    require(false, "DISTRIBUTED", "rank ", rank, " cannot reach the others over Gloo from ", host, ": ", words(error));
  }
  return nullptr;
}

}  // namespace memformer::distributed
