// Replacement for CUDA's half: conversions only, rounding to nearest even.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

struct __half {
  uint16_t bits;
};

inline float __half2float(__half h) {
  const int exponent = h.bits >> 10 & 31, fraction = h.bits & 1023;
  float v = exponent ? std::ldexp(static_cast<float>(fraction + 1024), exponent - 25)
                     : std::ldexp(static_cast<float>(fraction), -24);
  if (exponent == 31) v = fraction ? NAN : INFINITY;
  return h.bits & 0x8000 ? -v : v;
}

inline __half __float2half_rn(float v) {
  const auto sign = static_cast<uint16_t>(std::signbit(v) ? 0x8000 : 0);
  if (v == 0) return {sign};
  if (std::isnan(v)) return {0x7fff};
  int exponent;  // v = fraction * 2^exponent, fraction in [0.5, 1)
  std::frexp(v, &exponent);
  // The unit in the last place is 2^-24 below 2^-14, and 2^-11 of the magnitude above.
  const int last = std::max(exponent - 11, -24);
  const float places = std::nearbyint(std::ldexp(std::fabs(v), -last));
  if (std::isinf(v) || std::ldexp(places, last) > 65504.0f) {
    return {static_cast<uint16_t>(sign | 0x7c00)};
  }
  // A carry out of the fraction correctly increments the exponent.
  return {static_cast<uint16_t>(sign | (((last + 24) << 10) + static_cast<int>(places)))};
}
