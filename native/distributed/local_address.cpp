#include "distributed/local_address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

namespace memformer::distributed {
namespace {

constexpr const char* kLoopback = "127.0.0.1";
constexpr const char* kElsewhere = "192.0.2.1";  // of RFC 5737: no machine's; nothing is sent

/// Where a datagram to `host` would be sent from; "" where nothing leads there.
std::string source_of_route(const std::string& host) {
  addrinfo wanted{}, *found = nullptr;
  wanted.ai_socktype = SOCK_DGRAM;
  if (getaddrinfo(host.c_str(), "9", &wanted, &found) != 0) return "";
  std::string source;
  for (const auto* entry = found; entry != nullptr && source.empty(); entry = entry->ai_next) {
    const int handle = socket(entry->ai_family, SOCK_DGRAM, 0);
    if (handle < 0) continue;
    sockaddr_storage own{};
    socklen_t size = sizeof own;
    char text[NI_MAXHOST];
    if (connect(handle, entry->ai_addr, entry->ai_addrlen) == 0 &&
        getsockname(handle, reinterpret_cast<sockaddr*>(&own), &size) == 0 &&
        getnameinfo(reinterpret_cast<sockaddr*>(&own), size, text, sizeof text, nullptr, 0, NI_NUMERICHOST) == 0)
      source = text;
    close(handle);
  }
  freeaddrinfo(found);
  return source;
}

bool is_loopback(const std::string& address) {
  return address.rfind("127.", 0) == 0 || address == "::1" || address == "localhost";
}

}  // namespace

std::string local_address(const std::string& host) {
  auto source = source_of_route(host);
  if (is_loopback(source) && !is_loopback(host)) source = source_of_route(kElsewhere);
  return source.empty() ? kLoopback : source;
}

}  // namespace memformer::distributed
