// Failures that JavaScript sees: a stable code and one sentence. Codes are those of lib/errors.ts.
#pragma once
#include <sstream>
#include <stdexcept>
#include <string>

namespace memformer {

class Failure : public std::runtime_error {
 public:
  Failure(std::string code, const std::string& message) : std::runtime_error(message), code_(std::move(code)) {}
  const std::string& code() const { return code_; }

 private:
  std::string code_;
};

/// Throws Failure(code) with the parts streamed into one sentence, unless `condition` holds.
template <typename... Parts>
void require(bool condition, const char* code, const Parts&... parts) {
  if (condition) return;
  std::ostringstream sentence;
  (sentence << ... << parts);
  throw Failure(code, sentence.str());
}

}  // namespace memformer
