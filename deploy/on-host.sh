#!/usr/bin/env bash
# What deploy.sh does on the host, as root: sent there over ssh for each step, and never installed.
# shellcheck disable=SC2016,SC2317 # quoted for a shell further on; called by name
# It promises that a file is replaced by a rename (whole, before or after), that the release before is in a folder of its own
# before the first file changes, and that a step cut off is taken up by the next one. It puts nothing into a bucket.
set -euo pipefail
umask 022
root=$1 verb=$2
shift 2

releases=$root/var/lib/quittance/releases
etc=$root/etc/quittance
programs=$root/usr/bin
units=$root/usr/lib/systemd/system

say() { printf '%s  %s\n' "$(date -u +%H:%M:%S)" "$*"; }
refuse() { printf 'deploy: %s\n' "$2" >&2; exit "$1"; }

# ---- what is there

version_of() { "$1" --version 2>/dev/null | sed -n 's/^[a-z-]* \([0-9A-Za-z.+-]*\)$/\1/p' || true; }

# The units that run or are meant to: one, or several of the template.
workers() {
  local found
  found=$(systemctl list-units --all --plain --no-legend 'quittance-worker*.service' |
    awk '$3 != "inactive" { print $1 }')
  printf '%s\n' "${found:-quittance-worker.service}"
}

# Environment files as systemd reads them: NAME=VALUE, no shell. Secrets stay in this process and its children.
load() {
  local file line
  for file in "$@"; do
    [ -r "$file" ] || continue
    while IFS= read -r line || [ -n "$line" ]; do
      [[ $line =~ ^[[:space:]]*([A-Za-z_][A-Za-z0-9_]*)=(.*)$ ]] || continue
      local name=${BASH_REMATCH[1]} value=${BASH_REMATCH[2]}
      value=${value%"${value##*[![:space:]]}"}
      if [[ $value =~ ^\"(.*)\"$ || $value =~ ^\'(.*)\'$ ]]; then value=${BASH_REMATCH[1]}; fi
      export "$name=$value"
    done <"$file"
  done
}
load_worker() { # of a unit
  load "$etc/worker.env"
  [[ $1 != *@* ]] || { local of=${1#*@}; load "$etc/worker-${of%.service}.env"; }
}
# The operator's role, where it is filled in: as the units of redrive have it.
operator() {
  load_worker quittance-worker.service
  load "$etc/redrive.env"
  if [ -r "$etc/aws-config" ] && ! grep -q ACCOUNT "$etc/aws-config"; then
    export AWS_CONFIG_FILE=$etc/aws-config AWS_PROFILE=quittance-redrive
  fi
}

# A page of a worker's own listener; without curl, which need not be there.
page() { # IP:PORT, path
  local host=${1%:*} port=${1##*:}
  host=${host#[} host=${host%]}
  timeout 5 bash -c 'exec 3<>"/dev/tcp/$0/$1" && printf "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" "$2" >&3 && cat <&3' \
    "$host" "$port" "$2" 2>/dev/null
}
metrics() { # of a unit; nothing where it has no listener
  (
    load_worker "$1"
    [ "${ADMIN_LISTEN:-}" != off ] || exit 0
    page "${ADMIN_LISTEN:-127.0.0.1:9464}" /metrics
  ) || true
}
value() { sed -n "s/^$1 \([0-9.]*\).*/\1/p" | head -1; }
main_pid() { systemctl show -p MainPID --value "$1"; }
log_since() { # since when, seconds of the epoch
  local unit words=()
  for unit in $(workers); do words+=(-u "$unit"); done
  journalctl "${words[@]}" --since "@$1" --no-pager -q -o cat 2>/dev/null || true
}

# ---- stage, look

stage() {
  mkdir -p "$releases"
  chmod 0700 "$releases"
  find "$releases" -maxdepth 1 -name '.stage-*' -mmin +60 -exec rm -rf {} + # of those who were cut off
  mktemp -d "$releases/.stage-XXXXXXXX"
}

# Unpacks, and has the new release examine the host with the host's settings. Refuses before anything is changed.
look() {
  local stage=$1 kind=$2 code=0 said
  staged=$stage
  trap 'rm -rf "$staged"' EXIT
  mkdir "$stage/new"
  case $kind in
    deb) dpkg-deb -x "$stage/release.deb" "$stage/new" || refuse 4 "the package cannot be read" ;;
    rpm)
      command -v cpio >/dev/null || refuse 4 "cpio is missing on the host (dnf install cpio); nothing was changed"
      (cd "$stage/new" && rpm2cpio ../release.rpm | cpio -idm --quiet) ||
        refuse 4 "the package cannot be read" ;;
    folder)
      install -D -m 0755 "$stage/worker" "$stage/new/usr/bin/quittance-worker"
      install -D -m 0755 "$stage/redrive" "$stage/new/usr/bin/quittance-redrive"
      for unit in "$stage"/systemd/quittance-*; do
        install -D -m 0644 "$unit" "$stage/new/usr/lib/systemd/system/${unit##*/}"
      done ;;
  esac
  local worker=$stage/new/usr/bin/quittance-worker
  [ -n "$(version_of "$worker")" ] || refuse 4 "the new program does not run on this host: $("$worker" --version 2>&1 | head -3)"
  [ -e "$etc/worker.env" ] || refuse 4 "there is no $etc/worker.env: make it first (sample: deploy/worker.env)"
  mkdir -p "$stage/temp"
  said=$(
    load_worker "$(workers | head -1)"
    export CHECK_BEFORE_START=fail TEMP_DIR=$stage/temp
    timeout 120 "$worker" check --before-start 2>&1
  ) || code=$?
  findings() { grep -E '^(FAIL|WARN)|fix:' <<<"$said" | sed 's/^/          /' || true; }
  case $code in
    0)
      findings
      say "check: nothing speaks against $(version_of "$worker")" ;;
    1)
      findings
      refuse 4 "the new release refuses this host; nothing was changed" ;;
    75 | 124) printf '%s\n' "$said" >&2; refuse 75 "check could not look; nothing was changed" ;;
    *)
      printf '%s\n' "$said" >&2
      refuse 4 "the new release refuses this host (check: exit $code); nothing was changed" ;;
  esac
  trap - EXIT
}

# ---- install, keep, roll back

back_up() { # a name for the folder; its path
  local folder=$releases/$1 part=$releases/.part-$$
  rm -rf "$part"
  mkdir -p "$part/usr/bin" "$part/units" "$part/etc"
  local file
  for file in "$programs"/quittance-worker "$programs"/quittance-redrive; do [ ! -e "$file" ] || cp -p "$file" "$part/usr/bin/"; done
  for file in "$units"/quittance-*; do [ ! -e "$file" ] || cp -p "$file" "$part/units/"; done
  for file in "$etc"/*.env; do [ ! -e "$file" ] || cp -p "$file" "$part/etc/"; done
  for file in "$releases"/package.*; do [ ! -e "$file" ] || cp -p "$file" "$part/"; done
  sync "$part"
  mv -T "$part" "$folder"
  echo "$folder"
}
name() { # of a backup taken now
  local version=none
  [ ! -x "$programs/quittance-worker" ] || version=$(version_of "$programs/quittance-worker")
  printf '%s-%s' "$(date -u +%Y%m%dT%H%M%SZ)" "${version:-unknown}"
}
replace() { # mode, from, to: a rename, so that a running program keeps its own
  mkdir -p "$(dirname "$3")"
  install -m "$1" "$2" "$3.deploy-new"
  mv -fT "$3.deploy-new" "$3"
}
same() { # the staged release is what is installed
  local new=$1 file
  for file in usr/bin/quittance-worker usr/bin/quittance-redrive; do cmp -s "$new/$file" "$root/$file" || return 1; done
  for file in "$new"/usr/lib/systemd/system/quittance-*; do cmp -s "$file" "$units/${file##*/}" || return 1; done
}
package() { # install, by the host's own package manager, in whichever direction
  local words=()
  case $1 in
    *.deb)
      words=(--force-confold --force-downgrade)
      [ -z "$root" ] || words+=("--root=$root" --force-script-chrootless --force-depends)
      dpkg "${words[@]}" -i "$1" >"$releases/.package.log" 2>&1 ;;
    *.rpm)
      [ -z "$root" ] || words=(--root "$root" --nodeps --noscripts)
      rpm -U "${words[@]}" --oldpackage --replacepkgs "$1" >"$releases/.package.log" 2>&1 ;;
  esac || { tail -5 "$releases/.package.log" >&2; return 1; }
}

# Each worker anew: it drains, and systemd says when the new one is ready. Then it has to stay.
restart() {
  local unit pid
  systemctl daemon-reload
  for unit in $(workers); do
    say "restarting $unit: it drains, then the new one must be ready within $1 s"
    systemctl is-enabled --quiet "$unit" 2>/dev/null || systemctl enable --quiet "$unit"
    if ! timeout "$1" systemctl restart "$unit"; then
      say "FAIL  $unit did not become ready:"
      journalctl -u "$unit" -n 5 --no-pager -q -o cat 2>/dev/null | cut -c1-300 | sed 's/^/          /' || true
      return 1
    fi
    pid=$(main_pid "$unit")
    sleep 2
    if [ "$(systemctl is-active "$unit")" != active ] || [ "$(main_pid "$unit")" != "$pid" ]; then
      say "FAIL  $unit was ready and did not stay"
      return 1
    fi
    say "ready: $unit, process $pid"
  done
}

install_release() {
  local stage=$1 kind=$2 ready=$3 new=$1/new file before
  staged=$stage
  trap 'rm -rf "$staged"' EXIT
  exec 9>"$releases/.lock"
  flock -n 9 || refuse 4 "somebody else deploys to this host; nothing was changed"
  if same "$new" && [ ! -e "$releases/pending" ] && [ "$(systemctl is-active "$(workers | head -1)")" = active ]; then
    say "this release is installed and runs: nothing to install"
    return 5
  fi
  # A deployment that was cut off has left its backup: what is there now was never seen at work.
  if [ -e "$releases/pending" ]; then
    before=$(cat "$releases/pending")
    say "a deployment was cut off before: the way back stays $before"
  else
    before=$(back_up "$(name)")
    before=${before##*/}
    printf '%s\n' "$before" >"$releases/pending.new"
    mv -f "$releases/pending.new" "$releases/pending"
    say "backed up: $releases/$before"
  fi
  case $kind in
    folder)
      for file in quittance-worker quittance-redrive; do replace 0755 "$new/usr/bin/$file" "$programs/$file"; done
      ln -sfn quittance-redrive "$programs/redrive"
      for file in "$new"/usr/lib/systemd/system/quittance-*; do replace 0644 "$file" "$units/${file##*/}"; done
      rm -f "$releases"/package.* ;;
    deb | rpm)
      package "$stage/release.$kind" || { say "FAIL  the package could not be installed"; return 1; }
      rm -f "$releases"/package.*
      mv "$stage/release.$kind" "$releases/package.$kind" ;;
  esac
  restart "$ready"
}

keep() { # the release proved itself
  [ -e "$releases/pending" ] || return 0
  mv -f "$releases/pending" "$releases/back"
  # The newest five, and never the one to go back to.
  local name
  find "$releases" -mindepth 1 -maxdepth 1 -type d -name '2*' -printf '%f\n' | sort -r | tail -n +6 | while read -r name; do
    [ "$name" = "$(cat "$releases/back")" ] || rm -rf "${releases:?}/$name"
  done
}

rollback() {
  local ready=$1 to=${2:-} folder file
  exec 9>"$releases/.lock"
  # What was cut off on the other side may still wait for its worker.
  flock -w "$ready" 9 || refuse 70 "somebody else deploys to this host"
  if [ -z "$to" ]; then
    for file in pending back; do
      [ -n "$to" ] || [ ! -e "$releases/$file" ] || to=$(cat "$releases/$file")
    done
  fi
  [ -n "$to" ] || refuse 70 "there is no release to go back to"
  folder=$releases/$to
  [ -d "$folder" ] || refuse 70 "there is no backup $folder"
  # What is undone is kept too: an environment file that was edited since is in it.
  say "kept for a look: $(back_up "$(name)-undone-$$")"
  if [ ! -e "$folder/usr/bin/quittance-worker" ]; then
    say "there was no release before: the worker is stopped, and its files are left"
    for file in $(workers); do systemctl disable --now "$file"; done
    rm -f "$releases/pending" "$releases/back"
    return 0
  fi
  for file in "$folder"/package.*; do
    [ ! -e "$file" ] || package "$file" || say "the package manager could not take its package back; its files are put back"
  done
  rm -f "$releases"/package.*
  for file in "$folder"/package.*; do [ ! -e "$file" ] || cp -p "$file" "$releases/"; done
  for file in "$folder"/usr/bin/*; do replace 0755 "$file" "$programs/${file##*/}"; done
  for file in "$units"/quittance-*; do [ -e "$folder/units/${file##*/}" ] || rm -f "$file"; done
  for file in "$folder"/units/*; do [ ! -e "$file" ] || replace 0644 "$file" "$units/${file##*/}"; done
  for file in "$folder"/etc/*; do
    [ ! -e "$file" ] || cmp -s "$file" "$etc/${file##*/}" || { replace 0600 "$file" "$etc/${file##*/}"; chmod --reference="$file" "$etc/${file##*/}"; }
  done
  restart "$ready" || refuse 70 "the release before does not become ready either"
  rm -f "$releases/pending" "$releases/back"
  say "back to $to"
}

# ---- verify, watch

healthy() {
  local unit numbers worst=0
  for unit in $(workers); do
    if [ "$(systemctl is-active "$unit")" != active ]; then say "FAIL  $unit is $(systemctl is-active "$unit" || true)"; worst=1; continue; fi
    numbers=$(metrics "$unit")
    if [ -z "$numbers" ]; then say "ok    $unit is active; ADMIN_LISTEN is off or does not answer: no books to look at"; continue; fi
    if [ "$(value quittance_books_balanced <<<"$numbers")" = 1 ]; then
      say "ok    $unit is active, its books balance"
    else
      say "FAIL  $unit: its books do not balance"
      worst=1
    fi
  done
  return "$worst"
}

facts() {
  load_worker "$(workers | head -1)"
  local first=${SOURCE_BUCKETS:-}
  printf 'source=%s\n' "${first%%,*}"
}

hits() { # of the run, shown by a search
  "$programs/quittance-redrive" search "$1" --limit 100 --json 2>/dev/null | grep -o "\"key\":\"[^\"]*quittance-verify/$1/" | wc -l
}
done_outcomes() { # all workers of this host
  local unit sum=0 one
  for unit in $(workers); do
    one=$(metrics "$unit" | value 'quittance_messages_deleted_total{outcome="done"}')
    sum=$((sum + ${one:-0}))
  done
  echo "$sum"
}

# The marked files: settled as deleted and done by this host's worker, in its books, found by search, in step.
follow() {
  local run=$1 wanted=$2 fleet=$3 deadline=$((SECONDS + $4)) place=$5 since settled=0 found=0 least=$2 in_books=0 index=indexed seen=''
  since=$(($(date +%s) - 60))
  operator
  [ "${SKIP_OPENSEARCH:-}" != true ] || index=parked # as the host is configured, not as the release takes it
  [ "$fleet" = no ] || least=1
  while :; do
    settled=$(log_since "$since" | grep -F "quittance-verify/$run/" | grep -F message_settled | grep -F "\"done\"" | grep -F "\"deleted\"" | grep -cF "$index" || true)
    [ "$index" = parked ] || found=$(hits "$run" || true)
    in_books=$(done_outcomes)
    [ "$seen" = "$settled/$found" ] || say "      $settled settled here (deleted, done, $index), $found found by search, of $wanted"
    seen=$settled/$found
    if [ "$settled" -ge "$least" ] && { [ "$index" = parked ] || [ "$found" -ge "$wanted" ]; }; then break; fi
    if [ "$SECONDS" -ge "$deadline" ]; then
      say "FAIL  within $4 s: $settled of $least settled here as deleted, done and $index; $found of $wanted found by search"
      log_since "$since" | grep -F "quittance-verify/$run/" | tail -3 | cut -c1-400 | sed 's/^/          /' || true
      AWS_MAX_ATTEMPTS=1 timeout 30 "$programs/quittance-redrive" trace "s3://${place%%/*}/$(key "$place" "$run" 1)" 2>&1 | head -12 | sed 's/^/          /' || true
      return 1
    fi
    sleep 1
  done
  say "ok    deleted from the queue and done: $settled here; found by search: $found"
  # The first few one by one: file, record, index and search at the same revision.
  local nth few=$((wanted < 5 ? wanted : 5))
  if [ "$index" = indexed ]; then
    for ((nth = 1; nth <= few; nth++)); do
      "$programs/quittance-redrive" trace "s3://${place%%/*}/$(key "$place" "$run" "$nth")" --json 2>/dev/null | grep -q '"state":"in_step"' ||
        { say "FAIL  redrive trace: file $nth is not in step"; return 1; }
    done
    say "ok    file, record, index and search are in step ($few traced)"
  fi
  local unit numbers
  for unit in $(workers); do
    numbers=$(metrics "$unit")
    [ -n "$numbers" ] || { say "      no books to look at: ADMIN_LISTEN is off or does not answer"; return 0; }
    [ "$(value quittance_books_balanced <<<"$numbers")" = 1 ] || { say "FAIL  $unit: its books do not balance"; return 1; }
  done
  [ "$in_books" -ge "$settled" ] || { say "FAIL  the books count $in_books done, the log $settled"; return 1; }
  say "ok    in the books: $in_books done since the start, balanced"
}
key() { # place, run, number
  case $1 in */*) printf '%s/' "${1#*/}" ;; esac
  printf 'quittance-verify/%s/%s.txt' "$2" "$3"
}

# After the files were removed: no search shows them.
gone() {
  local run=$1 deadline=$((SECONDS + $2)) left
  operator
  [ "${SKIP_OPENSEARCH:-}" != true ] || return 0
  while left=$(hits "$run" || true); [ "$left" != 0 ]; do
    [ "$SECONDS" -lt "$deadline" ] ||
      { say "FAIL  $left removed files are still found: is the queue told of removals? ('worker check')"; return 1; }
    sleep 1
  done
  say "ok    removed again, and found no more"
}

monitor() {
  local end=$((SECONDS + $1)) unit numbers start=() nth bad=0
  for unit in $(workers); do start+=("$(main_pid "$unit")"); done
  while :; do
    nth=0
    for unit in $(workers); do
      numbers=$(metrics "$unit")
      get() { value "$1" <<<"$numbers"; }
      say "$unit $(systemctl is-active "$unit" || true), received $(get quittance_messages_received_total), in flight $(get quittance_messages_in_flight), deleted $(get 'quittance_messages_settled_total{settlement="deleted"}'), dead-lettered $(get 'quittance_messages_settled_total{settlement="dead_lettered"}'), balanced $(get quittance_books_balanced)"
      [ "$(systemctl is-active "$unit")" = active ] || { say "FAIL  $unit is not active"; bad=1; }
      [ "$(main_pid "$unit")" = "${start[$nth]}" ] || { say "FAIL  $unit was started again"; bad=1; }
      [ -z "$numbers" ] || [ "$(get quittance_books_balanced)" = 1 ] || { say "FAIL  $unit: its books do not balance"; bad=1; }
      nth=$((nth + 1))
    done
    [ "$bad" = 0 ] || return 1
    [ "$((SECONDS + $2))" -le "$end" ] || return 0
    sleep "$2"
  done
}

status() {
  local unit name
  if [ -x "$programs/quittance-worker" ]; then say "installed: $(version_of "$programs/quittance-worker")"; else say "installed: nothing"; fi
  for unit in $(workers); do say "$unit: $(systemctl is-active "$unit" || true), process $(main_pid "$unit")"; done
  [ -d "$releases" ] || return 0
  [ ! -e "$releases/pending" ] || say "!! a deployment was cut off or is under way: deploy again, or rollback to $(cat "$releases/pending")"
  [ ! -e "$releases/back" ] || say "rollback leads to: $(cat "$releases/back")"
  find "$releases" -mindepth 1 -maxdepth 1 -type d -name '2*' -printf '%f\n' | sort -r | while read -r name; do say "  backup $name"; done
}

main() {
  case $verb in
    stage | look | keep | rollback | healthy | facts | follow | gone | monitor | status) "$verb" "$@" ;;
    install) install_release "$@" ;;
    *) refuse 64 "no such step: $verb" ;;
  esac
}
main "$@" </dev/null
exit
