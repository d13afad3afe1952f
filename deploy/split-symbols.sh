#!/usr/bin/env bash
# Moves the debug information of programs into files beside them, where debuggers and backtraces find it.
#
#   deploy/split-symbols.sh PROGRAM...
#
# PROGRAM is then what is shipped; PROGRAM.debug fits this build alone, and is kept. OBJCOPY names another objcopy, for
# programs of another processor.
set -euo pipefail

objcopy() { command "${OBJCOPY:-objcopy}" "$@"; }

for program in "$@"; do
    objcopy --only-keep-debug --compress-debug-sections=zlib "$program" "$program.debug"
    # Names of functions stay: a backtrace without the file has them.
    objcopy --strip-debug "$program"
    # By its name, which it is looked for under, beside the program.
    (cd "$(dirname "$program")" && objcopy --add-gnu-debuglink="$(basename "$program").debug" "$(basename "$program")")
done
