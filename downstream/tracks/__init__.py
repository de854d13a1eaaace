"""How a model cuts a genome: BED, bigWig, a page."""
