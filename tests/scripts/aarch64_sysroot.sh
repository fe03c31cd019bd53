#!/usr/bin/env bash
# aarch64_sysroot.sh DIR: makes DIR/sysroot, with which this machine's rustc can compile for 64-bit
# Arm: pass it `--sysroot DIR/sysroot` and the target aarch64-unknown-linux-gnu.
#
# The only thing that rustc lacks for that target is the standard library. It is built from source,
# which Debian has as a package, if Debian has the source of exactly this rustc. Needs Debian and its package
# gcc-aarch64-linux-gnu; takes one or two minutes, or no time if DIR was made by the same rustc.
set -euo pipefail
target=aarch64-unknown-linux-gnu
rustc=$(rustc -vV)
version=$(sed -n 's/^release: //p' <<<"$rustc")

fail() {
  echo "aarch64_sysroot.sh: $*" >&2
  exit 1
}

mkdir -p "${1:?which folder?}"
dir=$(cd "$1" && pwd)
# A compiler can use only a library of its own version.
if [ "$(cat "$dir/rustc" 2>/dev/null)" = "$rustc" ]; then
  exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The mirror that this machine's packages come from, according to its package lists.
mirror() {
  apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | sort -u | sed -n 1p
}
mirror=$(mirror || true)
if [ -z "$mirror" ]; then
  apt-get update -qq || true
  mirror=$(mirror || true)
fi
[ -n "$mirror" ] || fail "apt knows no mirror of Debian to get rust-src $version from"

# Newer suites than the machine's are fetched into separate folders, so that the machine's own package
# lists, and thus what it would install, do not change.
apt=(
  -o "Dir::Etc::sourcelist=$work/sources.list"
  -o Dir::Etc::sourceparts=/dev/null
  -o "Dir::State::lists=$work/lists"
  -o "Dir::Cache=$work/cache"
  # apt's own user may not be allowed to enter them.
  -o APT::Sandbox::User=root
  -o Acquire::Languages=none
)
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
package=
# Backports keep some older versions; the other two suites have only the newest.
for suite in stable-backports testing unstable; do
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$work/sources.list"
  apt-get "${apt[@]}" -qq update || continue
  package=$(apt-cache "${apt[@]}" madison rust-src | awk -v v="$version+" 'index($3, v) == 1 && !n++ { print $3 }')
  if [ -n "$package" ]; then
    break
  fi
done
[ -n "$package" ] || fail "Debian's suites for newer software have no rust-src $version, which this rustc needs"
(cd "$work" && apt-get "${apt[@]}" -qq download "rust-src=$package")
dpkg-deb --fsys-tarfile "$work"/rust-src_*.deb |
  tar -x -C "$work" --strip-components=4 --wildcards --no-wildcards-match-slash './usr/src/rustc-*/library'

# The library uses unstable Rust. The flag marks the crates that it depends on, so that a program which
# depends on the same crates does not get them from here.
env -u CARGO_ENCODED_RUSTFLAGS \
  RUSTC_BOOTSTRAP=1 \
  RUSTFLAGS=-Zforce-unstable-if-unmarked \
  CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
  cargo build --quiet --release --locked --target $target --target-dir "$work/target" \
  --manifest-path "$work/library/sysroot/Cargo.toml"

rm -rf "$dir/rustc" "$dir/sysroot"
mkdir -p "$dir/sysroot/lib/rustlib/$target/lib"
cp "$work/target/$target/release/deps"/*.rlib "$dir/sysroot/lib/rustlib/$target/lib"
echo "$rustc" >"$dir/rustc"
