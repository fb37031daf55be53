"""``python -m histogen``: what ``torchrun -m histogen pretrain …`` starts."""

from histogen.cli.main import main

if __name__ == "__main__":
    main()
