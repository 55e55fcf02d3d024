"""What `make lab` asks of JupyterLab: a saved notebook keeps the picture of a panel, not its live view."""

from vspcn_lib.panels.stored import pre_save_hook

c = get_config()  # noqa: F821 - given by JupyterLab
c.FileContentsManager.pre_save_hook = pre_save_hook
