#!/usr/bin/env bash
# The static release build: one file that runs on every Linux of its architecture, whatever its libc.
# usage: packaging/build-static.sh [--target x86_64|aarch64]     without one: for this machine
# Uses an installed musl target of the toolchain (rustup target add ARCH-unknown-linux-musl), else, on Debian, a
# musl toolchain unpacked from the distribution's packages below the target directory; nothing is installed.
# For another architecture zig is the C compiler and linker, from PyPI, in a venv there; what was built is tried with
# qemu-user-static where that is installed.
# Result: target/static/plancton, for another architecture target/static-ARCH/plancton (below CARGO_TARGET_DIR where
# that is set); its path and size are printed.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
host=$(uname -m)
arch=$host
if [ "${1:-}" = --target ]; then
  arch=${2:?--target needs x86_64 or aarch64}
  shift 2
fi
[ $# = 0 ] || { sed -n '2,9s/^# //p' "${BASH_SOURCE[0]}" >&2; exit 64; }
triple=$arch-unknown-linux-musl
triple_env=${triple//-/_}
target_dir=$(realpath -m "${CARGO_TARGET_DIR:-$repository/target}")
toolchain=$target_dir/musl-toolchain
zig=$target_dir/zig
build_dir=$target_dir/static-build # of its own: another compiler in the same place rebuilds everything each time
result=$target_dir/static/plancton
[ "$arch" = "$host" ] || result=$target_dir/static-$arch/plancton

say() { printf 'build-static: %s\n' "$*" >&2; }

fail() {
  say "$*"
  exit 1
}

# ---- the toolchain ----

has_musl_target() {
  local libdir
  libdir=$(rustc --print target-libdir --target "$triple" 2>/dev/null) && compgen -G "$libdir/libstd-*.rlib" >/dev/null
}

download() { # download PACKAGE[=VERSION]…: into the current directory
  apt-get -qq download "$@" >/dev/null 2>&1 && return 0
  say "fetching the package lists"
  apt-get -qq update >/dev/null 2>&1 || true
  apt-get -qq download "$@" >/dev/null || fail "apt-get could not fetch: $*"
}

# Debian's own compiler for the web (rustc-web) is the newest it has, and comes with the standard library's source.
unpack_toolchain() {
  local version upstream series llvm
  command -v apt-get >/dev/null || fail "no $triple target here; install it: rustup target add $triple"
  version=$(candidate rustc-web)
  [ -n "$version" ] || { apt-get -qq update >/dev/null 2>&1 || true; version=$(candidate rustc-web); }
  [ -n "$version" ] || fail "no $triple target, and no rustc-web in this distribution; run: rustup target add $triple"
  [ "$(cat "$toolchain/version" 2>/dev/null)" != "$version $toolchain" ] || return 0
  upstream=${version%%[+-]*}
  series=${upstream%.*}
  say "unpacking a musl toolchain ($version) into $toolchain"
  rm -rf "$toolchain"
  mkdir -p "$toolchain/deb" "$toolchain/root"
  cd "$toolchain/deb"
  llvm=$(apt-cache depends "libstd-rust-web-$series" rustc-web 2>/dev/null | grep -oE 'libllvm[0-9]+' | head -n 1 || true)
  download "rustc-web=$version" "libstd-rust-web-$series=$version" "libstd-rust-web-dev=$version" \
    "rust-web-src=$version" ${llvm:+"$llvm"} musl-dev
  for package in rustc-web_*.deb libstd-rust-web*.deb libllvm*.deb musl-dev_*.deb; do
    [ ! -e "$package" ] || dpkg -x "$package" ../root
  done
  dpkg --fsys-tarfile rust-web-src_*.deb | tar -x -C ../root ./usr/lib/rustlib/src "./usr/src/rustc-$upstream/library"
  cd "$repository"
  rm -rf "$toolchain/deb"
  make_startup_files
  printf '#!/bin/sh\nLD_LIBRARY_PATH="%s/root/usr/lib/%s-linux-gnu" exec "%s/root/usr/bin/rustc" "$@"\n' \
    "$toolchain" "$host" "$toolchain" >"$toolchain/rustc"
  write_musl_cc "$toolchain/root/usr/include/$host-linux-musl"
  chmod +x "$toolchain/rustc"
  "$toolchain/rustc" --version >&2 || fail "the unpacked compiler does not run; remove $toolchain and try again"
  echo "$version $toolchain" >"$toolchain/version"
}

candidate() { apt-cache policy "$1" 2>/dev/null | sed -n 's/^  Candidate: //p' | grep -v '(none)' || true; }

# What rustc's self-contained musl target ships: startup objects and libc of musl, the unwinder of gcc.
make_startup_files() {
  local to=$toolchain/root/usr/lib/rustlib/$host-unknown-linux-musl/lib/self-contained file
  mkdir -p "$to"
  for file in crt1.o rcrt1.o Scrt1.o crti.o crtn.o libc.a; do
    cp "$toolchain/root/usr/lib/$host-linux-musl/$file" "$to/"
  done
  for file in crtbegin.o crtbeginS.o crtbeginT.o crtend.o crtendS.o; do
    cp "$(gcc -print-file-name=$file)" "$to/"
  done
  cp "$(gcc -print-file-name=libgcc_eh.a)" "$to/libunwind.a"
  # gcc's unwinder asks glibc's _dl_find_object first; one that finds nothing sends it on to dl_iterate_phdr
  echo 'int _dl_find_object(void *pc, void *out) { (void)pc; (void)out; return -1; }' |
    gcc -Os -ffreestanding -fPIC -x c -c - -o "$toolchain/find.o"
  ar r "$to/libunwind.a" "$toolchain/find.o" 2>/dev/null
  rm "$toolchain/find.o"
}

# A C compiler with musl's headers, for crates with C in them: with glibc's they would call what musl lacks.
write_musl_cc() {
  # shellcheck disable=SC2016 # expanded when it runs
  printf '#!/bin/sh\nexec gcc -nostdinc -isystem "%s" -isystem "$(gcc -print-file-name=include)" "$@"\n' "$1" >"$toolchain/musl-cc"
  chmod +x "$toolchain/musl-cc"
}

# The C compiler for an installed target: musl's own wrapper, else one with headers unpacked from musl-dev.
find_musl_cc() {
  local program
  for program in "$host-linux-musl-gcc" musl-gcc; do
    ! command -v "$program" || return 0
  done
  if command -v apt-get >/dev/null; then
    if [ ! -d "$toolchain/root/usr/include/$host-linux-musl" ]; then
      mkdir -p "$toolchain/root"
      (cd "$toolchain" && download musl-dev && dpkg -x musl-dev_*.deb root && rm musl-dev_*.deb)
    fi
    write_musl_cc "$toolchain/root/usr/include/$host-linux-musl"
    echo "$toolchain/musl-cc"
  else
    say "no musl-gcc; C code, if there is any, is built with the system's headers"
    echo cc
  fi
}

# One compiler and linker for every architecture, with musl of its own. The versions are part of what makes equal bytes.
make_zig() {
  local wanted='ziglang==0.17.1 cargo-zigbuild==0.24.0'
  [ "$(cat "$zig/version" 2>/dev/null)" != "$wanted" ] || return 0
  command -v python3 >/dev/null || fail "no python3 here; it fetches the compiler for $arch"
  say "fetching zig into $zig"
  rm -rf "$zig"
  python3 -m venv "$zig" || fail "python3 makes no venv here; on Debian that is in the package python3-venv"
  # shellcheck disable=SC2086 # two words
  "$zig/bin/pip" -q install $wanted >&2 || fail "pip could not fetch: $wanted"
  echo "$wanted" >"$zig/version"
}

# ---- the build ----

build() {
  local cargo_home=${CARGO_HOME:-$HOME/.cargo} cc flags options=() cargo=(cargo build) started=$SECONDS
  # no path of this machine in the program
  flags="--remap-path-prefix=$repository=plancton --remap-path-prefix=$cargo_home=cargo --remap-path-prefix=$toolchain=toolchain"
  # nobody unwinds here: a panic ends the program
  flags+=" -C force-unwind-tables=no"
  export "CFLAGS_$triple_env=-fno-asynchronous-unwind-tables"
  # a set RUSTFLAGS would replace the target's own
  unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS
  if has_musl_target; then
    say "using the installed target $triple"
    [ "$arch" != "$host" ] || cc=$(find_musl_cc)
    flags+=" -C target-feature=+crt-static"
  else
    unpack_toolchain
    export RUSTC=$toolchain/rustc RUSTC_BOOTSTRAP=1
    cc=$toolchain/musl-cc
    # a panic, which nothing here is written to meet, ends the program without words: a fifth of a megabyte less
    # of what is written for debugging, names alone
    flags+=" -C link-self-contained=yes -Z location-detail=none -Z fmt-debug=shallow -Z unstable-options -C panic=immediate-abort"
    options=(-Zbuild-std=std -Zbuild-std-features=optimize_for_size)
  fi
  if [ "$arch" = "$host" ]; then
    export "CC_$triple_env=$cc"
  else
    make_zig
    export PATH=$zig/bin:$PATH ZIG_GLOBAL_CACHE_DIR=$zig/cache CARGO_ZIGBUILD_CACHE_DIR=$zig/cache
    flags+=" -C link-self-contained=no" # zig links startup files and musl of its own
    cargo=(cargo zigbuild)
  fi
  triple_env=${triple_env^^}
  export "CARGO_TARGET_${triple_env}_RUSTFLAGS=$flags"
  (cd "$repository" && "${cargo[@]}" --release --locked --target "$triple" --target-dir "$build_dir" "${options[@]}")
  say "built in $((SECONDS - started)) s"
}

# No interpreter and no library is wanted, and it runs where there is nothing else at all.
check_static() {
  local run=() words
  if LC_ALL=C readelf -lWd "$1" | grep -E 'INTERP|\(NEEDED\)' >&2; then
    fail "$1 is not static: it wants the above"
  fi
  empty=$(mktemp -d)
  trap 'rm -rf "$empty"' EXIT
  cp "$1" "$empty/plancton"
  if [ "$(id -u)" = 0 ]; then
    run=(chroot "$empty")
  elif unshare -r true 2>/dev/null; then
    run=(unshare -r chroot "$empty")
  else
    say "not tried in an empty root: that needs root or user namespaces"
    return
  fi
  if [ "$arch" != "$host" ]; then
    if ! emulator=$(command -v "qemu-$arch-static"); then
      say "not tried: no qemu-$arch-static here; it is in the package qemu-user-static of most distributions"
      return
    fi
    cp "$emulator" "$empty/emulator"
    run+=(/emulator)
  fi
  run+=(/plancton)
  "${run[@]}" config --default >"$empty/config.toml" || fail "$1 does not run in an empty root"
  for words in --version '--config /config.toml check --offline' 'pilot --for 1s'; do
    # shellcheck disable=SC2086 # words
    "${run[@]}" $words >&2 || fail "$1 in an empty root fails: plancton $words"
  done
}

for program in cargo gcc ar readelf; do
  command -v "$program" >/dev/null || fail "no $program here; it is needed for the static build"
done
build
check_static "$build_dir/$triple/release/plancton"
mkdir -p "${result%/*}"
install -m 755 "$build_dir/$triple/release/plancton" "$result.new"
mv "$result.new" "$result" # a running one keeps its own
printf '%s %s bytes\n' "$result" "$(stat -c %s "$result")"
