"""Parses command lines of a program, without running it: `python -m tests.parsed NAME COMMANDS`.

COMMANDS is a JSON list of argument lists. Each is parsed and checked in a fork of a process that
has imported the program, by the program's own parser. Prints a line of JSON per refused command.
"""

import json
import os
import runpy
import sys


def main():
    name, commands = sys.argv[1], json.loads(sys.argv[2])
    import cfg_jax.config.validate  # noqa: F401  (once, before the forks)
    from launch import program

    def parse_all(main, check=None, **_):
        for arguments in commands:
            if os.fork() == 0:
                os._exit(_refused(arguments, check))
            _, status = os.wait()
            if status:
                print(json.dumps(arguments), flush=True)

    def _refused(arguments, check):
        sys.argv[1:] = arguments  # config_flags reads it
        try:
            program._parse([f"cfg-jax {name}", *arguments], hidden=())
            if check:
                check()
        except SystemExit as stop:
            return stop.code or 0
        except ValueError as error:
            print(error, file=sys.stderr, flush=True)
            return 2
        return 0

    program.run = parse_all
    runpy.run_module(f"launch.{name}", run_name="__main__")


if __name__ == "__main__":
    main()
