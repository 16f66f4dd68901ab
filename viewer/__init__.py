"""The web page. This module exports its 3D viewer, which shows a scan and a heat map with a local copy of NiiVue."""

from .niivue import Viewer, css, head, scene, static_paths

__all__ = ["Viewer", "css", "head", "scene", "static_paths"]
