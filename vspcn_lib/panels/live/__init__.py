"""Pictures that are drawn in the browser: each a Python class beside one small file of JavaScript."""
