// Medians, noise, and when to stop sampling.
#include "statistics.h"

#include <cmath>

#include "catch.h"
#include "device_laboratory.h"
#include "stopping.h"
#include "text_table.h"

using namespace gla;

TEST_CASE("the median of an even number of samples lies between the middle two") {
  CHECK(median({}) == 0.0);
  CHECK(median({3.0}) == 3.0);
  CHECK(median({5.0, 1.0, 3.0}) == 3.0);
  CHECK(median({4.0, 1.0, 3.0, 2.0}) == 2.5);
}

TEST_CASE("noise is the median absolute deviation over the median, and an outlier does not move it") {
  const Summary summary = summarize({0.9, 1.0, 1.1, 1.0, 50.0});
  CHECK(summary.median == 1.0);
  CHECK(std::fabs(summary.noise - 0.1) < 1e-12);
  CHECK(summary.samples == 5);
}

TEST_CASE("uncertainty falls with the square root of the number of samples") {
  const auto spread = [](int count) {
    std::vector<double> samples;
    for (int i = 0; i < count; ++i) samples.push_back(1 + 0.1 * i / count);
    return summarize(samples).uncertainty;
  };
  CHECK(std::fabs(spread(64) / spread(6400) - 10) < 1.5);
}

TEST_CASE("a time that jumps between two values is uncertain even after few samples") {
  const Summary summary = summarize({1.0, 2.0, 1.0, 2.0, 1.0});
  CHECK(summary.noise == 0.0);
  CHECK(summary.uncertainty >= 0.5);
}

TEST_CASE("sampling stops once the median is certain enough, and not before the least number of samples") {
  StoppingCriterion criterion({.least_samples = 5, .uncertainty = 0.01, .budget_seconds = 100});
  for (int i = 0; i < 4; ++i) criterion.add(1.0, 1.0);
  CHECK_FALSE(criterion.finished());
  criterion.add(1.0, 1.0);
  CHECK(criterion.finished());
}

TEST_CASE("noisy samples go on until the budget or the largest number of samples") {
  StoppingCriterion budget(
      {.least_samples = 2, .most_samples = 1000, .uncertainty = 1e-6, .budget_seconds = 10});
  int samples = 0;
  for (; !budget.finished(); ++samples) budget.add(samples % 2 == 0 ? 1.0 : 2.0, 1.0);
  CHECK(samples == 10);
  StoppingCriterion most({.least_samples = 2, .most_samples = 7, .uncertainty = 1e-6, .budget_seconds = 1e9});
  for (samples = 0; !most.finished(); ++samples) most.add(samples % 2 == 0 ? 1.0 : 2.0, 1.0);
  CHECK(samples == 7);
}

TEST_CASE("what cannot win is given up at once") {
  StoppingCriterion criterion({.least_samples = 5, .hopeless_above_seconds = 1.5});
  criterion.add(1.4, 1.4 / 1000);
  CHECK_FALSE(criterion.hopeless());
  StoppingCriterion slow({.least_samples = 5, .hopeless_above_seconds = 1.5});
  slow.add(1.6, 1.6 / 1000);
  CHECK(slow.hopeless());
  CHECK(slow.finished());
}

TEST_CASE("times are written in the unit that suits") {
  CHECK(format_seconds(1.23456e-6) == "1.235 us");
  CHECK(format_seconds(0.0123456) == "12.35 ms");
  CHECK(format_seconds(2.5) == "2.5 s");
  CHECK(format_seconds(0) == "-");
  CHECK(format_bytes(512) == "512 B");
  CHECK(format_bytes(1536) == "1.5 KiB");
}

TEST_CASE("columns line up") {
  TextTable table({{"name"}, {"n", TextTable::Align::right}});
  table.add({"a", "1"});
  table.add({"long", "22"});
  CHECK(table.format() == "name   n\na      1\nlong  22\n");
}

TEST_CASE("the share off the fast path counts chunks, although the kernel counts sub-chunks there") {
  CHECK(share_off_fast_path({90, 40}, 64) == 0.1);  // 10 chunks of 64 in 4 blocks of 16
  CHECK(share_off_fast_path({90, 10}, 16) == 0.1);
  CHECK(share_off_fast_path({0, 8}, 32) == 1.0);
  CHECK(share_off_fast_path({7, 0}, 64) == 0.0);
  CHECK(share_off_fast_path({0, 0}, 0) == 0.0);  // a family without chunks
}
