"""Questions about a segmentation, with tables and figures."""
