"""The entry of localstack/stack. It knows nothing itself: the commands are in lib/cli.py."""
import sys

from lib.cli import main

sys.exit(main(sys.argv[1:]))
