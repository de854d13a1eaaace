"""The labelled task `sample:coding`: windows of the embedded genome inside and outside of genes."""
