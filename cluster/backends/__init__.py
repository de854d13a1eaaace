"""The kinds of cluster, one to three files each; `launch(request)` of a kind starts a run there."""
