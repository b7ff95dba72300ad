#!/bin/sh
# Usage: extras.sh AGENT_DESTDIR AGGREGATOR_DESTDIR
# Adds manual pages and shell completion to what install-tree.sh has put there: the programs themselves know both best.
set -eu
agent=$1 aggregator=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export LC_ALL=C.UTF-8 COLUMNS=80

# The commands, as they run from where they are now.
sed "s|/usr/lib/|$agent/usr/lib/|" "$agent/usr/bin/loiter-agent" >"$work/loiter-agent"
sed "s|/usr/lib/|$aggregator/usr/lib/|" "$aggregator/usr/bin/loiter" >"$work/loiter"
chmod +x "$work/loiter-agent" "$work/loiter"

manual() { # DESTDIR COMMAND SECTION DESCRIPTION, and more sections on standard input
  folder=$1/usr/share/man/man$3
  mkdir -p "$folder"
  cat >"$work/sections"
  help2man --no-info --section "$3" --name "$4" --include "$work/sections" --output "$folder/$2.$3" "$work/$2"
}

manual "$agent" loiter-agent 8 'samples the TCP sockets and file descriptors of a host, and reports them' <<'SECTIONS'
[FILES]
.TP
/etc/loiter/agent.toml
settings; every one is in it, commented out
.TP
/etc/credstore/loiter-agent.ca.pem, .certificate.pem, .key.pem, .token
whom the service trusts, and what it shows of itself
.TP
/var/lib/loiter-agent
reports that no aggregator has acknowledged yet

[SEE ALSO]
.BR loiter (1).
Each command has its own
.BR \-\-help .
SECTIONS

manual "$aggregator" loiter 1 'finds the TCP sockets that loiter' <<'SECTIONS'
[FILES]
.TP
/etc/loiter/aggregator.toml
settings of the aggregator; every one is in it, commented out
.TP
/etc/credstore/loiter-aggregator.certificate.pem, .key.pem, .client-ca.pem
what the aggregator shows of itself, and whom it trusts
.TP
/var/lib/loiter
the store, and the tokens

[SEE ALSO]
.BR loiter-agent (8).
Each command has its own
.BR \-\-help .
SECTIONS

complete() { # SHELL FILE
  mkdir -p "$aggregator/usr/share/$(dirname "$2")"
  "$work/loiter" completion "$1" >"$aggregator/usr/share/$2"
}
complete bash bash-completion/completions/loiter
complete zsh zsh/vendor-completions/_loiter
complete fish fish/vendor_completions.d/loiter.fish
