"""``python -m pyvmm`` is the command ``pyvmm``."""

from pyvmm.cli.main import main

if __name__ == "__main__":
    main()
