"""The only vocabulary of the project: which byte or id stands for which letter.

Two encodings meet here. *Codes* (uint8) are what shards and loaders carry: 0-3 for ACGT, 4 for N.
*Token ids* are what the model sees; they are the Caduceus/HyenaDNA ids, so that tools written for those
models read ours: [CLS] [SEP] [BOS] [MASK] [PAD] [RESERVED] [UNK] A C G T N, then four unused ids.
"""

VOCABULARY = ("[CLS]", "[SEP]", "[BOS]", "[MASK]", "[PAD]", "[RESERVED]", "[UNK]", "A", "C", "G", "T", "N")
VOCABULARY_SIZE = 16  # 12 to 15 are unused: a width that divides evenly on a GPU

CLS_ID, SEP_ID, BOS_ID, MASK_ID, PAD_ID, RESERVED_ID, UNK_ID, A_ID, C_ID, G_ID, T_ID, N_ID = range(12)

BASES = "ACGT"
CODE_N = 4  # any letter other than ACGT
CODE_PAD = 5  # beyond the end of a window; never stored in a corpus
FIRST_BASE_ID = A_ID  # token id of a base = its code + FIRST_BASE_ID; this holds for N too

IUPAC_AMBIGUOUS = "RYSWKMBDHVNU"  # legal nucleotide letters other than ACGT; each counts as N
