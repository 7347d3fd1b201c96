"""``python -m featurestore.cli``: the command line of this interpreter."""

from featurestore.cli.app import main

if __name__ == "__main__":
    main()
