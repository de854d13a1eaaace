"""Uses of an exported model: classifiers, variant scores, tracks, vectors, generated sequence, studies."""
