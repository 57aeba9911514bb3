#include "stopping.h"

namespace gla {

void StoppingCriterion::add(double seconds, double cost_seconds) {
  samples_.push_back(seconds);
  spent_ += cost_seconds;
}

bool StoppingCriterion::hopeless() const {
  return limits_.hopeless_above_seconds > 0 && !samples_.empty() &&
         median(samples_) > limits_.hopeless_above_seconds;
}

bool StoppingCriterion::finished() const {
  if (samples_.empty()) return false;
  if (hopeless() || spent_ >= limits_.budget_seconds || samples_.size() >= limits_.most_samples) return true;
  return samples_.size() >= limits_.least_samples && summary().uncertainty <= limits_.uncertainty;
}

}  // namespace gla
