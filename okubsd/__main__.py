"""Let ``python -m okubsd`` be the command, as the installed one is."""

import signal


def main() -> None:
    """Run the command line of this process; Ctrl-C while its modules are read ends it without a word."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from okubsd.cli.main import main as run

    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Whoever calls us may have ignored it: then nobody would learn how a program of ours has ended.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    run()


if __name__ == "__main__":
    main()
