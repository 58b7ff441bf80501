// SPDX-License-Identifier: Apache-2.0

// Attention of tokens over their ranges of the cache; `ranges.py` says what for. It is
// compiled for each type and size: GROUP heads share the keys and values, which have DIM
// and VALUE_DIM numbers.

#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <tuple>
#include <type_traits>
#include <vector>

namespace {

using Vec = at::vec::Vectorized<float>;

constexpr int LANES = Vec::size();
constexpr int VECS = (DIM + LANES - 1) / LANES;
constexpr int VALUE_VECS = (VALUE_DIM + LANES - 1) / LANES;
constexpr int TOGETHER = 4;  // queries that are multiplied by a key while it is loaded
constexpr long PART = 256;   // positions that one thread reads at a time
constexpr float NOTHING = -std::numeric_limits<float>::infinity();

struct Part {
  long place;  // a token and a head
  long row;    // of the cache, of all heads
  long first, end;
};

// What a part gives to one query: its highest score, the sum of the weights that the
// scores have beside it, and the values in these weights.
struct Share {
  float highest, sum;
  float values[VALUE_VECS * LANES];
};

template <typename T>
Vec load(const T* vector, int index, int size) {
  const int count = std::min(LANES, size - index * LANES);
  const auto loaded = at::vec::Vectorized<T>::loadu(vector + index * LANES, count);
  if constexpr (std::is_same_v<T, float>) {
    return loaded;
  } else {
    return std::get<0>(at::vec::convert_to_float<T>(loaded));
  }
}

float sum_of(const Vec& vec) {
  return at::vec::vec_reduce_all<float>([](Vec& a, Vec& b) { return a + b; }, vec);
}

float highest_of(const Vec& vec) {
  return at::vec::vec_reduce_all<float>(
      [](Vec& a, Vec& b) { return at::vec::maximum(a, b); }, vec);
}

// Attend with COUNT queries over count positions.
template <int COUNT>
void attend(const Number* query, const Number* keys, const Number* values, long count,
            float scale, float cap, Share* shares) {
  Vec queries[COUNT][VECS];
  for (int g = 0; g < COUNT; g++) {
    for (int v = 0; v < VECS; v++) {
      queries[g][v] = load(query + g * DIM, v, DIM) * Vec(scale);
    }
  }
  float scores[COUNT][PART];
  for (long p = 0; p < count; p++) {
    Vec products[COUNT];
    for (int g = 0; g < COUNT; g++) products[g] = Vec(0.0f);
    for (int v = 0; v < VECS; v++) {
      const Vec key = load(keys + p * DIM, v, DIM);
      for (int g = 0; g < COUNT; g++) {
        products[g] = at::vec::fmadd(queries[g][v], key, products[g]);
      }
    }
    for (int g = 0; g < COUNT; g++) scores[g][p] = sum_of(products[g]);
  }
  for (int g = 0; g < COUNT; g++) {
    float* row = scores[g];
    for (long p = count; p % LANES != 0; p++) row[p] = NOTHING;
    Vec highest(NOTHING), sum(0.0f);
    for (long p = 0; p < count; p += LANES) {
      Vec score = Vec::loadu(row + p);
      if (cap > 0) score = Vec(cap) * (score / Vec(cap)).tanh();
      score.store(row + p);
      highest = at::vec::maximum(highest, score);
    }
    // A cap has made a number of what is not there.
    for (long p = count; p % LANES != 0; p++) row[p] = NOTHING;
    shares[g].highest = highest_of(highest);
    for (long p = 0; p < count; p += LANES) {
      const Vec weight = (Vec::loadu(row + p) - Vec(shares[g].highest)).exp();
      weight.store(row + p);
      sum = sum + weight;
    }
    shares[g].sum = sum_of(sum);
  }
  Vec totals[COUNT][VALUE_VECS];
  for (int g = 0; g < COUNT; g++) {
    for (int v = 0; v < VALUE_VECS; v++) totals[g][v] = Vec(0.0f);
  }
  for (long p = 0; p < count; p++) {
    for (int v = 0; v < VALUE_VECS; v++) {
      const Vec value = load(values + p * VALUE_DIM, v, VALUE_DIM);
      for (int g = 0; g < COUNT; g++) {
        totals[g][v] = at::vec::fmadd(Vec(scores[g][p]), value, totals[g][v]);
      }
    }
  }
  for (int g = 0; g < COUNT; g++) {
    for (int v = 0; v < VALUE_VECS; v++) {
      totals[g][v].store(shares[g].values + v * LANES);
    }
  }
}

// Join what the parts of a range give to one query; the next share is GROUP further.
void join(const Share* shares, long parts, Number* output) {
  float highest = NOTHING, sum = 0.0f;
  for (long i = 0; i < parts; i++) {
    highest = std::max(highest, shares[i * GROUP].highest);
  }
  float totals[VALUE_DIM] = {};
  for (long i = 0; i < parts; i++) {
    const Share& share = shares[i * GROUP];
    const float factor = std::exp(share.highest - highest);
    sum += factor * share.sum;
    for (int d = 0; d < VALUE_DIM; d++) totals[d] += factor * share.values[d];
  }
  for (int d = 0; d < VALUE_DIM; d++) output[d] = Number(totals[d] / sum);
}

}  // namespace

extern "C" void attend_ranges(const Number* query, const Number* keys,
                              const Number* values, const int64_t* ranges,
                              Number* output, long tokens, long heads,
                              long capacity, float scale, float cap) {
  std::vector<Part> parts;
  std::vector<long> begins;  // of the parts of each token and head
  for (long place = 0; place < tokens * heads; place++) {
    const int64_t* range = ranges + place / heads;
    const long row = range[0] * heads + place % heads;
    const long end = range[2 * tokens];
    begins.push_back(parts.size());
    for (long first = range[tokens]; first < end; first += PART) {
      parts.push_back({place, row, first, std::min(first + PART, end)});
    }
  }
  begins.push_back(parts.size());
  std::vector<Share> shares(parts.size() * GROUP);
#pragma omp parallel
  {
#pragma omp for schedule(dynamic)
    for (long i = 0; i < static_cast<long>(parts.size()); i++) {
      const Part& part = parts[i];
      const long count = part.end - part.first;
      const Number* key = keys + (part.row * capacity + part.first) * DIM;
      const Number* value = values + (part.row * capacity + part.first) * VALUE_DIM;
      constexpr int rest = GROUP % TOGETHER;
      for (int g = 0; g < GROUP - rest; g += TOGETHER) {
        attend<TOGETHER>(query + (part.place * GROUP + g) * DIM, key, value, count,
                         scale, cap, &shares[i * GROUP + g]);
      }
      if constexpr (rest != 0) {
        constexpr int g = GROUP - rest;
        attend<rest>(query + (part.place * GROUP + g) * DIM, key, value, count, scale,
                     cap, &shares[i * GROUP + g]);
      }
    }
#pragma omp for
    for (long place = 0; place < tokens * heads; place++) {
      for (int g = 0; g < GROUP; g++) {
        join(&shares[begins[place] * GROUP + g], begins[place + 1] - begins[place],
             output + (place * GROUP + g) * VALUE_DIM);
      }
    }
  }
}
