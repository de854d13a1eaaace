"""What an exported model is good for: classifiers, variant scores, tracks, vectors, sequence, studies."""
