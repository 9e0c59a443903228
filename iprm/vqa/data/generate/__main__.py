"""The command that writes generated questions."""

from iprm.vqa.data.generate.files import main

if __name__ == "__main__":
    raise SystemExit(main())
