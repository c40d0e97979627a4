// The key-value store by which the ranks of a group find each other (LibTorch's TCPStore), and the transport that they
// then reduce over. The one file that includes c10d's headers is c10d.cpp.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "core/collectives.h"

namespace memformer::distributed {

/// Every call is one exchange with the process that hosts the store. Throws DISTRIBUTED when that process is gone;
/// while it stands still, calls do too. Thread-safe.
class Store {
 public:
  virtual ~Store() = default;
  virtual void set(const std::string& key, const std::string& value) = 0;
  virtual bool has(const std::string& key) = 0;
  /// Of a key that is there.
  virtual std::string get(const std::string& key) = 0;
  virtual std::vector<std::string> get_all(const std::vector<std::string>& keys) = 0;
  /// Adds to the number under a key, 0 at first, and returns it.
  virtual int64_t add(const std::string& key, int64_t number) = 0;
  /// Sets a key that is not there. Returns its value, whoever set it.
  virtual std::string claim(const std::string& key, const std::string& value) = 0;
};

/// Where a store is. Keys get `prefix`.
struct StoreAddress {
  std::string host;
  int port = 0;
  std::string prefix;
};

/// Opens the store in this process. Throws DISTRIBUTED for a port that is in use.
std::shared_ptr<Store> host_store(const StoreAddress& address);
/// A connection of its own to that store; null where none answers within `seconds`.
std::shared_ptr<Store> reach_store(const StoreAddress& address, double seconds);

/// Gloo between CPUs. All ranks call it; blocks until all have, at most `seconds`. `host`: an address of this machine
/// that the others reach. Throws DISTRIBUTED.
std::unique_ptr<Collectives> gloo(Store& store, int rank, int world, const std::string& host, double seconds);

}  // namespace memformer::distributed
