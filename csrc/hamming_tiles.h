// The inner loop of `nearest_hamming` on the CPU; compiled by each_isa.h for every instruction set.

// Counts differing bits, block by block, from block `from` on; stops at the first in which a count
// lies below its query's limit and returns it, or `to`.
FLOWMATCH_TARGET inline int64_t scan_blocks(HammingScan& s, const uint64_t* blocks, int64_t from,
                                            int64_t to) {
  for (; from < to; ++from) {
    const uint64_t* block = blocks + from * s.words * kBlockReferences;
    s.found = 0;
    for (int i = 0; i < kBlockQueries; ++i) {
      const uint64_t* query = s.queries + i * s.words;
      for (int j = 0; j < kBlockReferences; ++j) {
        int32_t count = 0;
        for (int64_t w = 0; w < s.words; ++w) {
          count += __builtin_popcountll(query[w] ^ block[w * kBlockReferences + j]);
        }
        s.counts[i][j] = count;
        s.found |= static_cast<uint32_t>(count < s.limits[i]) << (i * kBlockReferences + j);
      }
    }
    if (s.columns) s.lower_columns(from);
    if (s.found) return from;
  }
  return to;
}
