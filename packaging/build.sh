#!/usr/bin/env bash
# Packages with one command: target/packages/plancton_VERSION_ARCH.deb and plancton-VERSION.ARCH.rpm, around the static
# binary of build-static.sh. usage: packaging/build.sh [--target x86_64|aarch64 | --binary FILE] [deb|rpm]…
# --target: for another architecture than this machine's. --binary: a static binary that is there already.
# VERSION and RELEASE of the packages can be set in the environment.
# The same source gives the same bytes: times are those of the last commit.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target_dir=$(realpath -m "${CARGO_TARGET_DIR:-$repository/target}")
packages=$target_dir/packages
version=${VERSION:-$(sed -n 's/^version = "\(.*\)"/\1/p' "$repository/Cargo.toml" | head -n 1)}
release=${RELEASE:-1}
binary='' target=() kinds=()
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$repository" log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH LC_ALL=C
umask 022

fail() {
  printf 'build: %s\n' "$*" >&2
  exit 1
}

need() { # need PROGRAM PACKAGE
  command -v "$1" >/dev/null || fail "no $1 here; it is in the package $2 of most distributions"
}

put() { # put MODE FILE PATH-IN-THE-TREE
  install -D -m "$1" "$2" "$tree/$3"
}

# The machine that the binary is for, in the words of rpm and dpkg.
read_arch() {
  case $(od -An -tx1 -j18 -N1 "$binary" | tr -d ' ') in
  3e) arch=x86_64 deb_arch=amd64 ;;
  b7) arch=aarch64 deb_arch=arm64 ;;
  *) fail "$binary: neither for x86_64 nor for aarch64" ;;
  esac
}

# The binary speaks for itself, on another machine than its own through an emulator.
make_texts() {
  local speaker=$binary
  if ! "$speaker" --version >/dev/null 2>&1; then
    need "qemu-$arch-static" qemu-user-static
    speaker=$work/speaker
    printf '#!/bin/sh\nexec "qemu-%s-static" "%s" "$@"\n' "$arch" "$binary" >"$speaker"
    chmod +x "$speaker"
  fi
  "$repository/packaging/texts.sh" "$speaker" "$work/texts"
}

# Everything that both packages have.
make_tree() {
  local here=$repository/packaging file
  put 755 "$binary" usr/bin/plancton
  for file in plancton.service plancton-reap.service plancton-reap.timer plancton.slice; do
    put 644 "$here/systemd/$file" "usr/lib/systemd/system/$file"
  done
  put 644 "$here/systemd/user/plancton.service" usr/lib/systemd/user/plancton.service
  put 644 "$here/systemd/plancton.slice" usr/lib/systemd/user/plancton.slice
  put 644 "$here/systemd/sysusers.conf" usr/lib/sysusers.d/plancton.conf
  put 644 "$repository/conf/plancton.toml" etc/plancton/config.toml
  put 644 "$work/texts/plancton.bash" usr/share/bash-completion/completions/plancton
  put 644 "$work/texts/_plancton" "$1/_plancton"
  put 644 "$work/texts/plancton.fish" usr/share/fish/vendor_completions.d/plancton.fish
  for file in plancton.1 plancton.toml.5 plancton-metrics.7 plancton-site.7; do
    gzip -9n "$work/texts/$file"
    put 644 "$work/texts/$file.gz" "usr/share/man/man${file##*.}/$file.gz"
  done
  (cd "$repository/conf/examples" && find . -type f -printf '%P\n') | while read -r file; do
    put 644 "$repository/conf/examples/$file" "usr/share/doc/plancton/examples/$file"
  done
  (cd "$here" && find grafana -type f) | while read -r file; do
    put 644 "$here/$file" "usr/share/doc/plancton/examples/${file//\//-}"
  done
  put 644 "$here/openrc/plancton" usr/share/doc/plancton/examples/openrc-plancton
  put 644 "$repository/README.md" usr/share/doc/plancton/README.md
}

fill() { # fill FILE: with the values of this build, to stdout
  sed -e "s|@VERSION@|$version|g; s|@RELEASE@|$release|g; s|@DEB_ARCH@|$deb_arch|g; s|@SIZE@|${size:-0}|g" \
    -e "s|@TREE@|$tree|g; s|@DATE@|$(date -u -d "@$SOURCE_DATE_EPOCH" '+%a %b %d %Y')|" \
    -e "/@MIT@/{s/.*//; r $repository/LICENSE-MIT
d}" "$1"
}

build_deb() {
  local here=$repository/packaging/deb doc size file
  need dpkg-deb dpkg
  tree=$work/deb
  make_tree usr/share/zsh/vendor-completions
  doc=$tree/usr/share/doc/plancton
  fill "$here/copyright" | sed '/^License: Expat$/,/^License: Apache/{/^License/!{s/^$/./; s/^/ /}}' >"$doc/copyright"
  gzip -9nc "$repository/CHANGELOG.md" >"$doc/changelog.gz"
  printf 'plancton (%s-%s) unstable; urgency=medium\n\n  * See changelog.gz.\n\n -- %s  %s\n' "$version" "$release" \
    "$(sed -n 's/^Maintainer: //p' "$here/control")" "$(date -Ru -d "@$SOURCE_DATE_EPOCH")" | gzip -9n >"$doc/changelog.Debian.gz"
  put 644 "$here/lintian-overrides" usr/share/lintian/overrides/plancton
  size=$(du -k -s --apparent-size "$tree" | cut -f1)
  mkdir "$tree/DEBIAN"
  fill "$here/control" >"$tree/DEBIAN/control"
  echo /etc/plancton/config.toml >"$tree/DEBIAN/conffiles"
  for file in postinst prerm postrm; do
    put 755 "$here/$file" "DEBIAN/$file"
  done
  (cd "$tree" && find usr etc -type f -print0 | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
  find "$tree" -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +
  dpkg-deb --root-owner-group -Zxz -b "$tree" "$packages/plancton_$version-${release}_$deb_arch.deb" >/dev/null
  result "$packages/plancton_$version-${release}_$deb_arch.deb" "$size"
}

build_rpm() {
  local file
  need rpmbuild rpm
  tree=$work/rpm
  make_tree usr/share/zsh/site-functions
  for file in LICENSE-MIT LICENSE-APACHE; do
    put 644 "$repository/$file" "usr/share/licenses/plancton/$file"
  done
  put 644 "$repository/CHANGELOG.md" usr/share/doc/plancton/CHANGELOG.md
  {
    echo '%defattr(-,root,root)'
    # with those that may be nobody's where their shell is not installed
    printf '%%dir "%s"\n' /usr/share/fish /usr/share/fish/vendor_completions.d /usr/share/zsh/site-functions /usr/share/licenses \
      /etc/plancton /usr/share/licenses/plancton
    cd "$tree"
    find usr/share/doc/plancton -type d -printf '%%dir "/%p"\n' | sort
    find . -type f -printf '"/%P"\n' | sort | sed -e 's|^"/etc/|%config(noreplace) &|' \
      -e 's|^"/usr/share/\(doc\|man\)/|%doc &|' -e 's|^"/usr/share/licenses/|%license &|'
  } >"$tree.files"
  fill "$repository/packaging/rpm/plancton.spec" >"$work/plancton.spec"
  rpmbuild -bb --quiet --target "$arch" --buildroot "$work/root" --define "_topdir $work/top" --define "_rpmdir $packages" \
    --define '_rpmfilename %%{name}-%%{version}-%%{release}.%%{arch}.rpm' --define '_build_id_links none' \
    --define 'debug_package %{nil}' --define '__os_install_post %{nil}' --define '_buildhost localhost' \
    --define 'use_source_date_epoch_as_buildtime 1' --define 'clamp_mtime_to_source_date_epoch 1' \
    --define '_binary_payload w19.xzdio' "$work/plancton.spec" >"$work/rpm.log" 2>&1 || { cat "$work/rpm.log" >&2; exit 1; }
  result "$packages/plancton-$version-$release.$arch.rpm" "$(du -k -s --apparent-size "$tree" | cut -f1)"
}

result() { printf '%s %s bytes, %s KiB installed\n' "$1" "$(stat -c %s "$1")" "$2"; }

while [ $# -gt 0 ]; do
  case $1 in
  --binary)
    binary=$(realpath "${2:?--binary needs a file}")
    shift
    ;;
  --target)
    target=(--target "${2:?--target needs x86_64 or aarch64}")
    shift
    ;;
  deb | rpm) kinds+=("$1") ;;
  *)
    sed -n '2,6s/^# //p' "${BASH_SOURCE[0]}" >&2
    exit 64
    ;;
  esac
  shift
done
# Of what was not asked for by name, what can be made here is.
if [ "${#kinds[@]}" = 0 ]; then
  kinds=(deb)
  if command -v rpmbuild >/dev/null; then
    kinds+=(rpm)
  else
    echo "no .rpm is made: there is no rpmbuild here (in Debian: apt install rpm)" >&2
  fi
fi
if [ -z "$binary" ]; then
  binary=$("$repository/packaging/build-static.sh" "${target[@]}" | cut -d' ' -f1)
fi
work=$(mktemp -d "${TMPDIR:-/tmp}/plancton-build.XXXXXX")
trap 'rm -rf "$work"' EXIT
read_arch
mkdir -p "$packages"
for kind in "${kinds[@]}"; do
  make_texts
  "build_$kind"
  rm -rf "$work/texts"
done
