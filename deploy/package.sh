#!/usr/bin/env bash
# Makes the packages, .deb and .rpm (Amazon Linux 2023), from built programs and a written manual.
# It promises that both hold the same files, owners and modes, that the same input makes the same tree, and that neither
# starts, stops or restarts a worker when it is installed or upgraded. It builds no program: `make packages` does.
# Needs dpkg-deb, rpmbuild (package `rpm`, on Debian too), strip and objdump (binutils).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
  cat <<'END'
usage: deploy/package.sh --bin FOLDER --manual FOLDER --out FOLDER [deb] [rpm]

  --bin FOLDER      with `worker` and `redrive`, as cargo built them
  --manual FOLDER   as `cargo run --example manual -- FOLDER` wrote it
  --out FOLDER      for the packages; their paths are printed on stdout

PACKAGE_COMPRESSION=fast makes larger packages quickly, PACKAGE_GLIBC=any makes an .rpm also of programs that Amazon Linux
2023 (glibc 2.34) cannot run: both for tests. SOURCE_DATE_EPOCH is the time in them (default: the last
commit's). Exit codes: 0 made, 1 a tool failed, 64 bad usage, 69 a tool is missing.
END
}
refuse() { printf 'package: %s\n' "$2" >&2; exit "$1"; }

bin='' manual='' out='' kinds=()
while [ $# -gt 0 ]; do
  case $1 in
    --bin | --manual | --out)
      [ $# -ge 2 ] || refuse 64 "$1 needs a folder"
      printf -v "${1#--}" %s "$2"
      shift 2 ;;
    deb | rpm) kinds+=("$1"); shift ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 64 ;;
  esac
done
if [ -z "$bin" ] || [ -z "$manual" ] || [ -z "$out" ]; then usage >&2; exit 64; fi
[ ${#kinds[@]} -gt 0 ] || kinds=(deb rpm)
for tool in strip objdump gzip $(printf '%s\n' "${kinds[@]}" | sed 's/^deb$/dpkg-deb/; s/^rpm$/rpmbuild/'); do
  command -v "$tool" >/dev/null || refuse 69 "$tool is missing (Debian: apt-get install binutils dpkg rpm)"
done

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
for program in worker redrive; do
  [ -x "$bin/$program" ] || refuse 64 "there is no program $bin/$program"
  said=$("$bin/$program" --version)
  [ "$said" = "$program $version" ] || refuse 64 "$bin/$program says '$said', Cargo.toml $version: build it again"
done
# The newest symbols of the C library that the programs ask for, as dpkg-shlibdeps would say it.
glibc=$(objdump -T "$bin/worker" "$bin/redrive" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -1)
glibc=${glibc#GLIBC_}
# rpm would find that out on the host.
if [[ " ${kinds[*]} " == *" rpm "* && "${PACKAGE_GLIBC:-}" != any ]] &&
  [ "$(printf '%s\n2.34\n' "$glibc" | sort -V | tail -1)" != 2.34 ]; then
  refuse 64 "the programs need glibc $glibc, and Amazon Linux 2023 has 2.34: \`make packages\` links them for it"
fi
mkdir -p "$out"
out=$(cd "$out" && pwd)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH
machine=$(uname -m)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
tree=$scratch/tree
umask 022

# ---- the tree: one for both. No user is made: the units run under DynamicUser, and root reads the environment files.

put() { install -D -m "$1" "$2" "$tree/$3"; } # mode, file, path
doc=usr/share/doc/quittance
configuration=(worker.env limits.env redrive.env aws-config)
for program in worker redrive; do
  put 0755 "$bin/$program" "usr/bin/quittance-$program"
  strip --strip-debug "$tree/usr/bin/quittance-$program" # a release build has none any more
done
ln -s quittance-redrive "$tree/usr/bin/redrive"
for unit in systemd/*; do put 0644 "$unit" "usr/lib/systemd/system/${unit#*/}"; done
# It may hold a password. systemd reads it, as root, and hands it on.
put 0600 deploy/worker.env etc/quittance/worker.env
# These hold no secret, and two of them the worker reads itself.
for name in "${configuration[@]:1}"; do put 0644 "deploy/$name" "etc/quittance/$name"; done
for file in README.md CHANGELOG.md deploy/*.json deploy/*.md; do [ ! -e "$file" ] || put 0644 "$file" "$doc/${file##*/}"; done
put 0644 LICENSE "$doc/copyright"
for page in "$manual"/man/man1/*.1; do
  mkdir -p "$tree/usr/share/man/man1"
  gzip -9nc "$page" >"$tree/usr/share/man/man1/${page##*/}.gz"
done
ln -s quittance-redrive.1.gz "$tree/usr/share/man/man1/redrive.1.gz"
for program in quittance-worker quittance-redrive redrive; do
  put 0644 "$manual/bash-completion/completions/$program" "usr/share/bash-completion/completions/$program"
  put 0644 "$manual/zsh/site-functions/_$program" "usr/share/zsh/site-functions/_$program"
  put 0644 "$manual/fish/vendor_completions.d/$program.fish" "usr/share/fish/vendor_completions.d/$program.fish"
done
find "$tree" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

# ---- what the two say alike

summary='SQS worker that settles every message: S3 files to records and a search index'
# systemd must learn of the units, and that is all: a worker that drains is left to, and runs on as the version it is.
after_install='if [ -d /run/systemd/system ]; then
  systemctl daemon-reload || true
fi'
after_upgrade='echo "quittance: what runs is still the version before; when it suits: systemctl restart quittance-worker" >&2
  echo "quittance: it drains first (DRAIN_TIMEOUT), nothing is lost; deploy.sh does it with a way back" >&2'
after_first='echo "quittance: nothing was started. Fill in /etc/quittance/worker.env, then: quittance-worker check;" >&2
  echo "quittance: systemctl enable --now quittance-worker" >&2'
# Only when the package goes away for good.
before_removal='if [ -d /run/systemd/system ]; then
    systemctl disable --now quittance-worker.service quittance-redrive.timer quittance-reconcile.timer \
      quittance-report.timer || true
    systemctl stop "quittance-worker@*.service" || true
  fi'

# ---- .deb

deb() {
  local root=$scratch/deb architecture
  cp -a "$tree" "$root"
  mkdir "$root/DEBIAN"
  architecture=$(dpkg --print-architecture)
  cat >"$root/DEBIAN/control" <<END
Package: quittance
Version: $version-1
Architecture: $architecture
Maintainer: the quittance authors <quittance@localhost>
Installed-Size: $(du -sk "$tree" | cut -f1)
Depends: libc6 (>= $glibc), libgcc-s1, ca-certificates
Recommends: systemd
Section: net
Priority: optional
Description: $summary
 Files land in S3, S3 tells an SQS queue; the worker extracts their text, writes
 it durably, keeps OpenSearch in step and settles the message. redrive is the
 way back from the dead-letter queue.
END
  printf '/etc/quittance/%s\n' "${configuration[@]}" >"$root/DEBIAN/conffiles"
  # An argument means an upgrade: the version that was configured before.
  cat >"$root/DEBIAN/postinst" <<END
#!/bin/sh
set -e
[ "\$1" = configure ] || exit 0
$after_install
if [ -n "\$2" ]; then
  $after_upgrade
else
  $after_first
fi
END
  cat >"$root/DEBIAN/prerm" <<END
#!/bin/sh
set -e
if [ "\$1" = remove ]; then
  $before_removal
fi
END
  cat >"$root/DEBIAN/postrm" <<END
#!/bin/sh
set -e
$after_install
END
  chmod 0755 "$root"/DEBIAN/p*
  (cd "$root" && find usr -type f -exec md5sum {} + >DEBIAN/md5sums)
  find "$root/DEBIAN" "$root" -maxdepth 1 -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
  local pressed=(-Zxz)
  [ "${PACKAGE_COMPRESSION:-}" != fast ] || pressed=(-Zgzip -z1)
  dpkg-deb --root-owner-group "${pressed[@]}" --build "$root" "$out/quittance_$version-1_$architecture.deb" >&2
  echo "$out/quittance_$version-1_$architecture.deb"
}

# ---- .rpm

rpm() {
  local level=9
  [ "${PACKAGE_COMPRESSION:-}" != fast ] || level=1
  # Written for rpm 4.16 (Amazon Linux 2023). What the programs need of the C library rpmbuild finds by itself.
  cat >"$scratch/quittance.spec" <<END
Name: quittance
Version: $version
Release: 1.amzn2023
Summary: $summary
License: MIT
URL: $(sed -n 's/^repository = "\(.*\)"/\1/p' Cargo.toml)
Requires: ca-certificates

%description
Files land in S3, S3 tells an SQS queue; the worker extracts their text, writes it durably, keeps OpenSearch in step and
settles the message. redrive is the way back from the dead-letter queue.

%install
cp -a $tree/. %{buildroot}/

%post
$after_install
if [ "\$1" -gt 1 ]; then
  $after_upgrade
else
  $after_first
fi

%preun
if [ "\$1" -eq 0 ]; then
  $before_removal
fi

%postun
$after_install

%files
%defattr(-,root,root,-)
%dir /etc/quittance
$(printf '%%config(noreplace) /etc/quittance/%s\n' "${configuration[@]}")
$(cd "$tree" && find usr \( -type f -o -type l \) -printf '/%p\n' | LC_ALL=C sort)
%dir /$doc
END
  local words=(--define "_topdir $scratch/rpm" --define "_binary_payload w$level.gzdio" --define 'debug_package %{nil}'
    --define '__os_install_post %{nil}' --define '_build_id_links none' --define '_buildhost localhost'
    --define 'use_source_date_epoch_as_buildtime 1' --define 'clamp_mtime_to_source_date_epoch 1'
    --define "_tmppath $scratch" --target "$machine-linux" --buildroot "$scratch/rpm-root")
  command rpmbuild -bb --quiet "${words[@]}" "$scratch/quittance.spec" >"$scratch/rpm.log" 2>&1 ||
    { cat "$scratch/rpm.log" >&2; refuse 1 "rpmbuild failed"; }
  cp "$scratch"/rpm/RPMS/*/quittance-*.rpm "$out/"
  echo "$out/quittance-$version-1.amzn2023.$machine.rpm"
}

for kind in "${kinds[@]}"; do "$kind"; done
