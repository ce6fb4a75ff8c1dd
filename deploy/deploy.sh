#!/usr/bin/env bash
# A release on a host over ssh: deploy, verify, monitor, roll back. What is done on the host is in on-host.sh, beside this.
# It promises that a host is left with a release that was seen at work, or with the one before; that it may be interrupted
# anywhere and run again; and that no secret travels or stands on a command line. It judges no finding: `worker check` does.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)

usage() {
  cat <<'END'
usage: deploy.sh [deploy] HOST PACKAGE|FOLDER [--send N] [--dry-run]   install, restart, verify; roll back on failure
       deploy.sh verify HOST [--send 5|100] [--rollback]               marked files through queue, record and index
       deploy.sh monitor HOST [--for SECONDS] [--every SECONDS]        books and restarts, a line at a time
       deploy.sh rollback HOST [--to RELEASE]                          back to the release before (or a named one)
       deploy.sh status HOST                                           what runs, what can be gone back to

PACKAGE is a .deb or .rpm, FOLDER holds `worker` and `redrive` (the units are this checkout's).

  --dry-run          say what would be done; nothing is copied, nothing changed
  --send N           files of the verification, 0 to 100; default 5. 0: only that it is up and its books balance
  --source PLACE     bucket[/prefix] they go to; default: the first of the host's SOURCE_BUCKETS
  --fleet            other hosts read the same queue: one file settled on this host is enough
  --timeout SECONDS  until the files must be through; default 120
  --ready SECONDS    until a restarted worker must be ready, the drain of the one before included; default 180 (going back: 60
                     at least)
  --rollback         verify: go back to the release before where it fails (deploy always does)
  --root FOLDER      everything on the host below this folder, for rehearsals

The files lie under quittance-verify/RUN/ in the source bucket while it runs. They are put there, and taken away, from
here, with `aws` (DEPLOY_AWS) and your credentials: no worker may write to its source. DEPLOY_SSH: other words than `ssh`.
Needs root or `sudo -n` on the host. Backups: /var/lib/quittance/releases/TIME-VERSION (binaries, units, environment
files; root only; the newest five are kept). It refuses where `worker check` of the new release finds a failure, such as a
queue that is not joined to its dead-letter queue. Nothing is lost in a restart: the worker drains first.

Examples:
  deploy.sh ec2-user@worker-1 target/packages/quittance-0.1.0-1.amzn2023.x86_64.rpm
  deploy.sh deploy worker-1 target/release --dry-run
  deploy.sh verify worker-1 --send 100
  deploy.sh monitor worker-1 --for 600
  deploy.sh rollback worker-1

Exit codes: 0 well · 1 verification failed (and rolled back, where it says so) · 4 refused, nothing was changed · 64 bad usage ·
70 rolling back failed: see to the host · 75 the host or S3 cannot be reached · 130 interrupted: it says how things stand
END
}
say() { printf '%s  %s\n' "$(date -u +%H:%M:%S)" "$*"; }
fail() { printf 'deploy: %s\n' "$2" >&2; exit "$1"; }
number() { # name, text, most
  [[ $2 =~ ^[0-9]{1,6}$ && $2 -le $3 ]] || fail 64 "$1 must be a number from 0 to $3"
}

verb=deploy host='' what='' dry='' send=5 source_place='' fleet=no timeout=120 ready=180 back='' root='' to='' span=300 every=10
case ${1:-} in
  deploy | verify | monitor | rollback | status) verb=$1; shift ;;
  -h | --help | help) usage; exit 0 ;;
esac
while [ $# -gt 0 ]; do
  case $1 in
    --dry-run) dry=yes ;;
    --fleet) fleet=yes ;;
    --rollback) back=yes ;;
    --send | --source | --timeout | --ready | --root | --to | --for | --every)
      [ $# -ge 2 ] || fail 64 "$1 needs a value"
      case $1 in
        --send) send=$2 ;; --source) source_place=$2 ;; --timeout) timeout=$2 ;; --ready) ready=$2 ;;
        --root) root=$2 ;; --to) to=$2 ;; --for) span=$2 ;; --every) every=$2 ;;
      esac
      shift ;;
    -h | --help) usage; exit 0 ;;
    -*) fail 64 "unknown flag $1; --help lists them" ;;
    *) if [ -z "$host" ]; then host=$1; elif [ -z "$what" ]; then what=$1; else fail 64 "one host, one release: what is '$1'?"; fi ;;
  esac
  shift
done
[ -n "$host" ] || { usage >&2; exit 64; }
number --send "$send" 100; number --timeout "$timeout" 86400; number --ready "$ready" 86400
number --for "$span" 604800; number --every "$every" 3600
[[ $root =~ ^(/[A-Za-z0-9._-]+)*$ ]] || fail 64 "--root must be an absolute path of plain characters"
[[ $to =~ ^[A-Za-z0-9.~+-]*$ ]] || fail 64 "--to takes a name that 'status' shows"
[[ $source_place =~ ^[A-Za-z0-9./_=-]*$ ]] || fail 64 "--source takes bucket or bucket/prefix/"

read -r -a ssh <<<"${DEPLOY_SSH:-ssh}"
read -r -a aws <<<"${DEPLOY_AWS:-aws}"
ssh+=(-o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=15)
# shellcheck disable=SC2016 # it is the host's shell that asks who it is
as_root='s=; [ "$(id -u)" = 0 ] || s="sudo -n"; exec $s'

on_host() { # a command of on-host.sh and its words, all of plain characters; 75 where the host cannot be reached
  local code=0
  "${ssh[@]}" -- "$host" "$as_root bash -s -- '$root' $*" <"$here/on-host.sh" || code=$?
  [ "$code" != 255 ] || code=75
  return "$code"
}

changing='' sent='' # what an interrupt, or any end, has to see to
run='' place=''
remove_files() {
  [ -n "$sent" ] || return 0
  sent=''
  "${aws[@]}" s3 rm --recursive --only-show-errors "s3://$place/quittance-verify/$run/" ||
    say "!! the marked files are still there: ${aws[*]} s3 rm --recursive s3://$place/quittance-verify/$run/"
}
at_end() {
  local code=$?
  trap - EXIT INT TERM HUP
  remove_files
  [ -z "${scratch:-}" ] || rm -rf "$scratch"
  [ -z "$changing" ] || say "!! left in the middle: 'deploy.sh deploy' again goes on, 'deploy.sh rollback $host' goes back to $changing"
  exit "$code"
}
trap at_end EXIT
trap 'exit 130' INT TERM HUP

# ---- verify

verify() { # 0 or 1, and says why
  local code=0 facts
  on_host healthy || return 1
  [ "$send" -gt 0 ] || return 0
  facts=$(on_host facts) || return 1
  place=${source_place:-$(sed -n 's/^source=//p' <<<"$facts")}
  place=${place%/}
  [ -n "$place" ] || { say "FAIL  the host's SOURCE_BUCKETS is empty"; return 1; }
  [[ $place =~ ^[A-Za-z0-9./_=-]+$ ]] || { say "FAIL  '$place' cannot be used: name a place with --source"; return 1; }
  # One word, for the search too.
  run=qv$(date -u +%Y%m%d%H%M%S)x$$
  scratch=${scratch:-$(mktemp -d)}
  mkdir -p "$scratch/$run"
  local nth
  for ((nth = 1; nth <= send; nth++)); do
    printf 'A file of a verification by deploy.sh, %s, number %d. It may be removed.\n' "$run" "$nth" >"$scratch/$run/$nth.txt"
  done
  say "verify: $send files to s3://$place/quittance-verify/$run/"
  sent=yes
  "${aws[@]}" s3 cp --recursive --only-show-errors "$scratch/$run/" "s3://$place/quittance-verify/$run/" ||
    { say "FAIL  the files could not be put into the bucket"; return 1; }
  on_host follow "$run" "$send" "$fleet" "$timeout" "'$place'" || code=1
  remove_files
  [ "$code" = 0 ] || return 1
  on_host gone "$run" "$timeout" || return 1
}

roll_back() { # words for on-host.sh
  say "rolling back"
  # Whatever the new one was given: this one has to come.
  on_host rollback $((ready > 60 ? ready : 60)) "$@" || { changing=''; fail 70 "rolling back failed: 'deploy.sh status $host', and see to it by hand"; }
  changing=''
}

# ---- deploy

deploy() {
  [ -e "$what" ] || fail 64 "there is no package or folder '$what'"
  local kind=folder
  if [ -f "$what" ]; then
    case $what in
      *.deb) kind=deb ;; *.rpm) kind=rpm ;;
      *) fail 64 "'$what' is neither .deb nor .rpm nor a folder" ;;
    esac
  elif [ ! -x "$what/worker" ] || [ ! -x "$what/redrive" ]; then
    fail 64 "'$what' has no programs 'worker' and 'redrive'"
  fi
  if [ -n "$dry" ]; then
    say "dry run: $what ($kind) to $host; nothing is changed"
    on_host status
    say "would: copy it; run its 'check' there; back up; install; restart with READY within $ready s; verify with $send files"
    return 0
  fi
  local stage code=0
  stage=$(on_host stage) || exit $?
  say "copying $what to $host"
  {
    if [ "$kind" = folder ]; then
      tar -c -C "$what" worker redrive -C "$here/.." systemd
    else
      tar -c -C "$(dirname "$what")" --transform "s|.*|release.$kind|" "$(basename "$what")"
    fi
  } | "${ssh[@]}" -- "$host" "$as_root tar -x --no-same-owner -C '$stage'" || fail 75 "copying failed; nothing was changed"
  on_host look "'$stage'" "$kind" || exit $?
  # From here on there is something to go back from.
  changing="the release before"
  on_host install "'$stage'" "$kind" "$ready" || code=$?
  case $code in
    4) changing=''; exit 4 ;; # somebody else is at it
    75) exit 75 ;; # what became of it is not known: at_end says what to do
    5) # it was there already, and runs
      changing=''
      verify || fail 1 "verification failed; this release was there already, so there is nothing to go back from"
      return 0 ;;
  esac
  if [ "$code" = 0 ] && verify; then
    on_host keep
    changing=''
    say "deployed: $what on $host"
    return 0
  fi
  roll_back
  fail 1 "the release did not prove itself, and the one before is back"
}

case $verb in
  deploy) [ -n "$what" ] || fail 64 "which release? --help shows how"; deploy ;;
  verify)
    if verify; then say "verified"; else
      [ -n "$back" ] || fail 1 "verification failed; nothing was changed ('deploy.sh rollback $host' goes back)"
      roll_back
      fail 1 "verification failed, and the release before is back"
    fi ;;
  rollback)
    [ -z "$dry" ] || { on_host status; say "dry run: would go back to ${to:-the release named 'back'}"; exit 0; }
    roll_back ${to:+"$to"} ;;
  monitor) on_host monitor "$span" "$every" ;;
  status) on_host status ;;
esac
