"""Run the command line with this interpreter: ``python -m featurestore.cli``."""

from featurestore.cli.app import main

if __name__ == "__main__":
    main()
