// A model's options as they come from lib/model/config.ts, already validated there: a flat map of numbers, flags and
// names.
#pragma once
#include <string>
#include <unordered_map>
#include <variant>

#include "core/failure.h"

namespace memformer::nn {

class Config {
 public:
  using Value = std::variant<double, bool, std::string>;

  explicit Config(std::unordered_map<std::string, Value> values) : values_(std::move(values)) {}

  int64_t integer(const std::string& key) const { return static_cast<int64_t>(get<double>(key, "a number")); }
  double number(const std::string& key) const { return get<double>(key, "a number"); }
  bool flag(const std::string& key) const { return get<bool>(key, "true or false"); }
  const std::string& text(const std::string& key) const { return get<std::string>(key, "a word"); }

 private:
  template <typename T>
  const T& get(const std::string& key, const char* kind) const {
    const auto found = values_.find(key);
    require(found != values_.end(), "CONFIG", "the model's configuration lacks '", key, "'");
    require(std::holds_alternative<T>(found->second), "CONFIG", "the model's option '", key, "' must be ", kind);
    return std::get<T>(found->second);
  }

  std::unordered_map<std::string, Value> values_;
};

}  // namespace memformer::nn
