// A whole MLP, forward and backward, in float32 on one thread, for processors with AVX-512, or with AVX2 and FMA.
//
// Which of them is an option of the compiler's. Both builds add the same numbers in the same order, so their results are
// the same to the last bit. A tile, TILE x WIDTH sums, fits into the 32 or 16 vector registers.
//
// Activations live in "strips": WIDTH rows of the batch are stored transposed, feature after feature, so that a strip
// is (features, WIDTH) floats. In this layout the forward pass reads weights in place, one number for WIDTH rows at a
// time, and what one layer writes is what the next layer, and the backward pass, reads. A batch is padded to whole blocks
// of BLOCK rows, with rows of zeros whose gradients are zero.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#ifdef __AVX512F__
constexpr int64_t LANES = 16, TILE = 8;
constexpr int64_t GROUP = 128;  // columns of a weight that are packed, and used, before the next ones
#else
constexpr int64_t LANES = 8, TILE = 6, GROUP = 96;
#endif
constexpr int64_t WIDTH = 2 * LANES, BLOCK = 32;
constexpr int64_t GAP = (16 + TILE - 1) / TILE;  // so many times TILE floats are a cache line or more
static_assert(GROUP % TILE == 0 && TILE >= 4 && TILE <= 8, "a group is whole tiles; less than a tile is 4 + 2 + 1 rows");
typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t Places __attribute__((vector_size(4 * LANES)));

enum Finish { STORE, ADD, BIAS, BIAS_RELU, MASK };

// How large the caller's memory must be depends on these.
extern "C" const int64_t mlp_block = BLOCK, mlp_width = WIDTH, mlp_group = GROUP, mlp_gap = GAP;

// The left factor, read in tiles of TILE rows: entry (t * TILE + i, k) of block b is
// data[b * jump + t * TILE * tile + i * row + k * step]; the sum runs over blocks and k.
struct Left {
  const float* data;
  int64_t tile, row, step, length, blocks, jump;
  const float* at(int64_t i) const { return data + (i - i % TILE) * tile + i % TILE * row; }
};

static inline Vector load(const float* p) { return *(const Vector*)p; }

// R x WIDTH entries of a product, from row i on. `right` has WIDTH floats for each step of the sum. `extra` is the bias
// (one number a row) or what the mask is read off (laid out as `out`). Columns from `columns` on are not written.
template <int R, Finish F>
static inline void tile(int64_t i, const Left& left, const float* right, float* out, int64_t stride, const float* extra,
                        int64_t columns) {
  Vector sums[R][2] = {};
  const float* block = left.at(i);
  const int64_t row = left.row, step = left.step;
  for (int64_t b = 0; b < left.blocks; b++, block += left.jump) {
    const float* a = block;
    for (int64_t k = 0; k < left.length; k++, a += step, right += WIDTH) {
      const Vector first = load(right), second = load(right + LANES);
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        const float factor = a[r * row];
        sums[r][0] += factor * first;
        sums[r][1] += factor * second;
      }
    }
  }
  const Vector zero = {};
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
      const int64_t offset = (i + r) * stride + half * LANES, room = columns - half * LANES;
      Vector value = sums[r][half];
      if (F == ADD) value += load(out + offset);
      if (F == BIAS || F == BIAS_RELU) value += extra[i + r];
      if (F == BIAS_RELU) value = value < zero ? zero : value;  // a NaN stays, as in PyTorch
      if (F == MASK) value = load(extra + offset) <= zero ? zero : value;
      if (room >= LANES) *(Vector*)(out + offset) = value;
      else for (int64_t column = 0; column < room; column++) out[offset + column] = value[column];
    }
  }
}

template <Finish F>
static void product(int64_t rows, const Left& left, const float* right, float* out, int64_t stride,
                    const float* extra = nullptr, int64_t columns = WIDTH) {
  int64_t i = 0;
  for (; i + TILE <= rows; i += TILE) tile<TILE, F>(i, left, right, out, stride, extra, columns);
  if (rows - i >= 4) tile<4, F>(i, left, right, out, stride, extra, columns), i += 4;
  if (rows - i >= 2) tile<2, F>(i, left, right, out, stride, extra, columns), i += 2;
  if (rows - i >= 1) tile<1, F>(i, left, right, out, stride, extra, columns);
}

static int64_t strips_of(int64_t rows) { return (rows + BLOCK - 1) / BLOCK * (BLOCK / WIDTH); }

// Exchange the upper half of each 2 * HALF lanes of `first` with the lower half of those of `second`. The places are
// constants, so that the compiler finds single instructions for them.
template <int64_t HALF, int64_t... LANE>
static inline void exchange(Vector& first, Vector& second, std::integer_sequence<int64_t, LANE...>) {
  const Places low = {int32_t(LANE & HALF ? LANES + LANE - HALF : LANE)...};
  const Places high = {int32_t(LANE & HALF ? LANES + LANE : LANE + HALF)...};
  const Vector before = first;
  first = __builtin_shuffle(before, second, low);
  second = __builtin_shuffle(before, second, high);
}

template <int64_t HALF>
static inline void transpose(Vector (&square)[LANES]) {
#pragma GCC unroll 16
  for (int64_t i = 0; i < LANES; i++)
    if (!(i & HALF)) exchange<HALF>(square[i], square[i + HALF], std::make_integer_sequence<int64_t, LANES>());
  if constexpr (HALF > 1) transpose<HALF / 2>(square);
}

static void to_strips(const float* x, int64_t rows, int64_t columns, float* strips) {
  for (int64_t row = 0; row < strips_of(rows) * WIDTH; row += LANES) {
    float* strip = strips + row / WIDTH * columns * WIDTH + row % WIDTH;
    int64_t c = 0;
    for (; c + LANES <= columns && row + LANES <= rows; c += LANES) {
      Vector square[LANES];
      for (int64_t i = 0; i < LANES; i++) square[i] = load(x + (row + i) * columns + c);
      transpose<LANES / 2>(square);
      for (int64_t i = 0; i < LANES; i++) *(Vector*)(strip + (c + i) * WIDTH) = square[i];
    }
    for (int64_t i = 0; i < LANES; i++)
      for (int64_t rest = c; rest < columns; rest++)
        strip[rest * WIDTH + i] = row + i < rows ? x[(row + i) * columns + rest] : 0.0f;
  }
}

static void from_strips(const float* strips, int64_t rows, int64_t columns, float* x) {
  for (int64_t row = 0; row < rows; row += LANES) {
    const float* strip = strips + row / WIDTH * columns * WIDTH + row % WIDTH;
    int64_t c = 0;
    for (; c + LANES <= columns && row + LANES <= rows; c += LANES) {
      Vector square[LANES];
      for (int64_t i = 0; i < LANES; i++) square[i] = load(strip + (c + i) * WIDTH);
      transpose<LANES / 2>(square);
      for (int64_t i = 0; i < LANES; i++) *(Vector*)(x + (row + i) * columns + c) = square[i];
    }
    for (int64_t i = 0; i < std::min(LANES, rows - row); i++)
      for (int64_t rest = c; rest < columns; rest++) x[(row + i) * columns + rest] = strip[rest * WIDTH + i];
  }
}

// Lay WIDTH columns of strips, from `first` on, out as (rows, WIDTH): the right factor of a weight's gradient.
static void pack_columns(const float* strips, int64_t count, int64_t columns, int64_t first, float* packed) {
  for (int64_t s = 0; s < count; s++, packed += WIDTH * WIDTH)
    for (int64_t r = 0; r < WIDTH; r += LANES)
      for (int64_t c = 0; c < WIDTH; c += LANES) {
        const float* corner = strips + (s * columns + first + c) * WIDTH + r;
        Vector square[LANES];
        for (int64_t i = 0; i < LANES; i++) square[i] = first + c + i < columns ? load(corner + i * WIDTH) : Vector{};
        transpose<LANES / 2>(square);
        for (int64_t i = 0; i < LANES; i++) *(Vector*)(packed + (r + i) * WIDTH + c) = square[i];
      }
}

// Lay `count` columns of a weight with `out` rows of `in` out so that TILE of them are read together: the left factor of
// an input's gradient. Tiles are at least a cache line further apart than needed, or all would compete for one place in
// the cache.
static Left pack_tiles(const float* weight, int64_t out, int64_t in, int64_t count, float* packed) {
  const int64_t stride = out + GAP;
  for (int64_t k = 0; k < out; k++, weight += in) {
    int64_t i = 0;
    for (; i + TILE <= count; i += TILE) std::memcpy(packed + i * stride + k * TILE, weight + i, 4 * TILE);
    if (i < count) std::memcpy(packed + i * stride + k * TILE, weight + i, 4 * (count - i));
  }
  return {packed, stride, 1, TILE, out, 1, 0};
}

// Sums over the batch, in an order that vectors do not change: 16 sums, of every 16th row, are added up at the end.
static void sum_rows(const float* strips, int64_t count, int64_t columns, float* sums) {
  constexpr int64_t PARTS = 16 / LANES, STRIPS = BLOCK / WIDTH;
  for (int64_t c = 0; c < columns; c++) {
    Vector lanes[PARTS] = {};
    for (int64_t s = 0; s < count; s += STRIPS) {
      Vector rows[2 * PARTS];
      for (int64_t i = 0; i < 2 * PARTS; i++)
        rows[i] = load(strips + ((s + i / 2) * columns + c) * WIDTH + i % 2 * LANES);
      for (int64_t i = 0; i < PARTS; i++) lanes[i] += rows[i] + rows[i + PARTS];
    }
    Vector& all = lanes[0];
    if (PARTS == 2) all += lanes[PARTS - 1];
    for (int64_t half = LANES / 2; half; half /= 2)
      for (int64_t lane = 0; lane < half; lane++) all[lane] += all[lane + half];
    sums[c] = all[0];
  }
}

// Networks read the same x (rows, sizes[0]). `layers` are weight (networks, out, in) and bias (networks, out) of each
// layer. `hidden` receives the hidden layers after their ReLU, network after network, as strips. `scratch` has
// padded rows * (first size + last size) floats.
extern "C" void mlp_forward(int64_t networks, int64_t rows, int64_t depth, const int64_t* sizes, const float* x,
                                   const float* const* layers, float* hidden, float* output, float* scratch) {
  const int64_t count = strips_of(rows), padded = count * WIDTH, last = sizes[depth];
  float *input = scratch, *result = input + padded * sizes[0];
  to_strips(x, rows, sizes[0], input);
  for (int64_t n = 0; n < networks; n++, output += rows * last) {
    const float* from = input;
    for (int64_t l = 0; l < depth; l++) {
      const int64_t in = sizes[l], out = sizes[l + 1];
      const Left weight = {layers[2 * l] + n * out * in, in, in, 1, in, 1, 0};
      const float* bias = layers[2 * l + 1] + n * out;
      float* to = l + 1 < depth ? hidden : result;
      for (int64_t s = 0; s < count; s++) {
        const float* right = from + s * in * WIDTH;
        float* strip = to + s * out * WIDTH;
        if (l + 1 < depth) product<BIAS_RELU>(out, weight, right, strip, WIDTH, bias);
        else product<BIAS>(out, weight, right, strip, WIDTH, bias);
      }
      from = to;
      if (l + 1 < depth) hidden += padded * out;
    }
    from_strips(result, rows, last, output);
  }
}

// The gradients of the layers, unless `layer_grads` is null, and of x, summed over networks, unless `x_grad` is null.
// `scratch` has padded rows * (2 * largest + 2 * first size) + max(padded rows * WIDTH, (largest size + GAP) * GROUP)
// floats.
extern "C" void mlp_backward(int64_t networks, int64_t rows, int64_t depth, const int64_t* sizes, const float* x,
                                    const float* const* layers, const float* hidden, const float* output_grad,
                                    float* const* layer_grads, float* x_grad, float* scratch) {
  const int64_t count = strips_of(rows), padded = count * WIDTH, first = sizes[0];
  const int64_t widest = *std::max_element(sizes, sizes + depth + 1);
  float *delta = scratch, *next = delta + padded * widest, *input = next + padded * widest;
  float *input_grad = input + padded * first, *packed = input_grad + padded * first;
  if (layer_grads) to_strips(x, rows, first, input);
  for (int64_t n = 0; n < networks; n++, output_grad += rows * sizes[depth]) {
    for (int64_t l = 0; l + 1 < depth; l++) hidden += padded * sizes[l + 1];
    const float* behind = hidden;  // the end of this network's hidden layers; they are walked backwards
    to_strips(output_grad, rows, sizes[depth], delta);
    for (int64_t l = depth - 1; l >= 0; l--) {
      const int64_t in = sizes[l], out = sizes[l + 1];
      if (l) behind -= padded * in;
      const float* read = l ? behind : input;
      if (layer_grads) {
        float* grad = layer_grads[2 * l] + n * out * in;
        const Left left = {delta, WIDTH, WIDTH, 1, WIDTH, count, out * WIDTH};
        for (int64_t column = 0; column < in; column += WIDTH) {
          pack_columns(read, count, in, column, packed);
          product<STORE>(out, left, packed, grad + column, in, nullptr, in - column);
        }
        sum_rows(delta, count, out, layer_grads[2 * l + 1] + n * out);
      }
      if (!l && !x_grad) break;
      for (int64_t i = 0; i < in; i += GROUP) {
        const int64_t group = std::min(GROUP, in - i);
        const Left weight = pack_tiles(layers[2 * l] + n * out * in + i, out, in, group, packed);
        for (int64_t s = 0; s < count; s++) {
          const float* right = delta + s * out * WIDTH;
          const int64_t place = (s * in + i) * WIDTH;
          if (l) product<MASK>(group, weight, right, next + place, WIDTH, read + place);
          else if (n) product<ADD>(group, weight, right, input_grad + place, WIDTH);
          else product<STORE>(group, weight, right, input_grad + place, WIDTH);
        }
      }
      std::swap(delta, next);
    }
  }
  if (x_grad) from_strips(input_grad, rows, first, x_grad);
}
