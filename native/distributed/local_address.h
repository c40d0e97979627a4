// The address of this machine by which others reach it.
#pragma once
#include <string>

namespace memformer::distributed {

/// The source address of the route to `host`. Where that is a loopback although `host` is not called so (a machine's
/// own name often stands for 127.0.1.1), the source address of the default route; "127.0.0.1" where there is none.
std::string local_address(const std::string& host);

}  // namespace memformer::distributed
