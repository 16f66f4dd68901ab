"""The Space's 3D viewer: the scan, its Grad-CAM overlay, and the page's own copy of NiiVue."""

from .niivue import Viewer, css, head, scene, static_paths

__all__ = ["Viewer", "css", "head", "scene", "static_paths"]
