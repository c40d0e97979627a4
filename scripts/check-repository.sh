#!/usr/bin/env bash
# What may be in the repository: no file above 1 MiB, and no path that exists on one developer's machine only.
set -euo pipefail
cd "${1:-$(dirname "$0")/..}"
failed=0

while IFS= read -r -d '' file; do
  [ -f "$file" ] || continue
  size=$(stat -c %s "$file")
  if ((size > 1048576)); then
    echo "$file: $size bytes; files above 1 MiB do not belong into the repository" >&2
    failed=1
  fi
done < <(git ls-files -z)

# The bracket keeps this line from finding itself.
pattern='(^|[^[:alnum:]_.~-])/([w]ork|[h]ome|[r]oot|[t]mp)/[[:alnum:]]'
if git grep -nIE "$pattern" -- README.md docs lib native scripts examples configs .ci ':!*.spec.ts' >&2; then
  echo "paths of one machine do not belong into the repository" >&2
  failed=1
fi

((failed == 0)) && echo "repository: no large file, no local path"
exit "$failed"
