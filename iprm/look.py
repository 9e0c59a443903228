"""Look inside a trained model: `python -m iprm.look` (`iprm.vqa.look.command`)."""

from iprm_kernels.extras import extra

with extra("train", __name__):
    from iprm.vqa.look.command import main

if __name__ == "__main__":
    raise SystemExit(main())
