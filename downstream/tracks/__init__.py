"""How a model cuts a genome: BED, bigWig, an HTML page."""
