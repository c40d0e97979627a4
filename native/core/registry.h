// Name -> factory. Each variant's own file adds its entry: a new variant edits no central list.
#pragma once
#include <functional>
#include <map>
#include <string>
#include <utility>

#include "core/failure.h"

namespace memformer {

template <typename Product, typename... Arguments>
class Registry {
 public:
  using Factory = std::function<Product(Arguments...)>;

  explicit Registry(const char* family) : family_(family) {}

  bool add(const std::string& name, Factory factory) {
    require(factories_.emplace(name, std::move(factory)).second, "NATIVE", family_, " '", name,
            "' is registered twice");
    return true;
  }

  Product make(const std::string& name, Arguments... arguments) const {
    const auto found = factories_.find(name);
    if (found == factories_.end()) {
      std::string known;
      for (const auto& [key, unused] : factories_) known += (known.empty() ? "" : ", ") + key;
      require(false, "CONFIG", "there is no ", family_, " '", name, "'; known: ", known);
    }
    return found->second(std::forward<Arguments>(arguments)...);
  }

 private:
  const char* family_;
  std::map<std::string, Factory> factories_;
};

}  // namespace memformer
