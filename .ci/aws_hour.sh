#!/usr/bin/env bash
# The hour on AWS (tests/aws), in its short form and without AWS; reports go to target/.
#   CATCHMENT_BIN=target/debug/catchment .ci/aws_hour.sh
set -uo pipefail
cd "$(dirname "$0")/.."
mkdir -p target
code=0

# Both wait more than they work.
python3 tests/aws/run.py --emulator --report target/hour-emulator >target/hour-emulator.log 2>&1 &
emulator=$!
trap 'kill "$emulator" 2>/dev/null' EXIT
python3 tests/aws/test_hour.py || code=1
python3 tests/aws/test_services.py || code=1
printf '\n-- embedded services\n'
python3 tests/aws/run.py --local --report target/hour-local || code=1
wait "$emulator" || code=1
printf '\n-- emulators by other people\n'
cat target/hour-emulator.log
exit "$code"
