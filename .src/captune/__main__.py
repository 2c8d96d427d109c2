"""`python -m captune`: the command."""

from captune.tuner.command.main import main

if __name__ == "__main__":
    main()
