"""The notebooks' controls: ipywidgets over the views."""
