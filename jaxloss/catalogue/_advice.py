"""Which loss to take when, in plain lines: judgement, not facts. `jaxloss.choosing` reads it."""

TASKS = {
    "regression": "a number for each example",
    "binary": "yes or no",
    "multiclass": "one of several classes",
    "multilabel": "any of several labels",
    "probabilistic": "a distribution for each example",
    "ranking": "an order of the items of a list",
    "segmentation": "a class for each pixel",
    "sequence": "a string of tokens",
    "contrastive": "vectors that are close when their objects are alike",
}
TROUBLES = {
    "outliers": "a few targets are grossly wrong",
    "wrong_labels": "some labels are wrong",
    "imbalance": "some classes are rare",
    "heavy_tails": "large errors are part of the matter",
    "calibration": "the probabilities will be used as probabilities",
    "asymmetric_cost": "one kind of error costs more than the other",
    "missing_targets": "some targets are unknown",
}
RETURNS = {
    "mean": "the mean of what is possible",
    "centre": "the middle of the bulk, whatever lies outside",
    "median": "as often too low as too high",
    "quantile": "exceeded with a given frequency",
    "expectile": "a lopsided mean",
    "probabilities": "a probability for each class",
    "scores": "an order, or a side of a boundary",
    "distribution": "parameters or quantiles of a distribution",
    "overlap": "a region that covers the true one",
    "embeddings": "vectors",
}

# A line each: task: loss; troubles; what it returns. Then when to take it, and what that costs.
JUDGEMENT = """
regression: regression.squared_error; ; mean
Start here: the fit is the mean, and no other is better if errors are about normal.
One gross error pulls as hard as it is wide.

regression: regression.huber; outliers, heavy_tails; centre
The first resort: convex, and no example pulls harder than delta, say 1.345 standard deviations.
With that delta and normal errors it needs 1/0.95 as many examples as the squared error.

regression: regression.absolute_error; outliers, heavy_tails; median
The fit is the median: a gross error pulls no harder than a small one, and nothing need be tuned.
With normal errors it needs pi/2 as many examples; its gradient does not fade near the minimum.

regression: robust.tukey; outliers; centre
Beyond its scale, 4.685 standard deviations say, an example is ignored altogether.
Not convex: begin at a Huber fit, or a bad beginning becomes a bad end.

regression: robust.barron; outliers, heavy_tails; centre
When it is not known how heavy the tails are: alpha goes from the square to Welsch, or is learned.
One more option to choose, and not convex below alpha = 1.

regression: regression.pinball; asymmetric_cost; quantile
For costs of a and b a unit too low and too high, the best decision is the quantile a / (a + b).
Extreme levels need many examples: few lie beyond them.

regression: regression.expectile; asymmetric_cost; expectile
When large errors should weigh by how far they miss, and the objective should be smooth.
No frequency can be read from it, and outliers pull as with the squared error.

regression: regression.squared_log_error; heavy_tails; centre
For amounts over orders of magnitude, when a factor counts and not a difference.
It returns the mean of logarithms, below the mean: sums of predictions come out too low.

regression: nll.tweedie_deviance; heavy_tails; mean
For amounts that are often exactly 0 and seldom large: rain, insurance claims.
Its power, between 1 and 2, must be chosen by how the variance grows with the mean.

regression: nll.poisson; ; mean
For counts: predict the logarithm of the rate, and the mean is right even if the variance is not.
Where counts vary more than a Poisson's do, its intervals are too narrow: see negative_binomial.

regression: regression.epsilon_insensitive; outliers; centre
When errors up to epsilon do not matter: the fit then rests on few examples.
Epsilon must be known in the unit of the target.

binary: classification.sigmoid_cross_entropy; calibration; probabilities
Start here: proper, convex in the logit, and asked for a probability it gives one.
A confident wrong answer costs in proportion to its logit, without bound.

binary: classification.sigmoid_cross_entropy; asymmetric_cost; probabilities
Leave the loss alone: say yes when p > a / (a + b), a the cost of a false yes, b of a false no.
That takes calibrated probabilities: look at plot.calibration on held-out data.

binary: classification.sigmoid_cross_entropy; wrong_labels; probabilities
With label_smoothing twice the share of flipped labels none is asked for more than that allows.
The probabilities are those of the observed labels, not of the true ones.

binary: classification.sigmoid_focal; imbalance; scores
For thousands of easy negatives to each positive, as in detection: gamma = 2 hushes the easy ones.
Not proper: probabilities are drawn towards 1/2, so calibrate them before they are used.

binary: classification.hinge; outliers; scores
When only the side of the boundary counts: examples beyond the margin stop pulling.
Scores are no probabilities.

multiclass: classification.softmax_cross_entropy; calibration; probabilities
Start here: proper, and convex in the logits. Fit one temperature on held-out data afterwards.
It learns wrong labels by heart if the model can.

multiclass: classification.generalized_cross_entropy; wrong_labels; probabilities
Bounded: q = 0.7 lets a wrong label pull less the surer the model is of another class.
Slow to begin with, the more so the more classes there are: then take a smaller q.

multiclass: classification.symmetric_cross_entropy; wrong_labels; probabilities
The cross-entropy for speed plus its bounded reverse against wrong labels.
Two weights to tune.

multiclass: classification.logit_adjusted; imbalance; probabilities
For balanced accuracy: the class frequencies are added to the logits while training only.
Accuracy over all examples falls if the rare classes are as rare in use.

multiclass: classification.ldam; imbalance; scores
Rare classes get a wider margin, from their counts alone.
Margin and scale must suit each other; probabilities are not calibrated.

multiclass: classification.softmax_focal; imbalance; scores
When it is hardness, not frequency, that is out of balance.
Not proper: probabilities are drawn together.

multiclass: classification.softmax_cross_entropy; asymmetric_cost; probabilities
Leave the loss alone: decide for the class whose expected cost under the probabilities is least.
That takes calibrated probabilities.

multiclass: classification.sparsemax; ; probabilities
When most classes should have probability exactly 0: a few tags, an attention one can read.
A probability of 0 is a claim: if it comes true its log-likelihood is minus infinity.

multiclass: classification.multiclass_hinge; outliers; scores
When only the winner counts, as in a support vector machine.
Scores are no probabilities.

multilabel: classification.sigmoid_cross_entropy; calibration; probabilities
Start here: one question of yes or no for each label, all with equal weight.
With many labels the few positives drown in the negatives.

multilabel: classification.asymmetric; imbalance, wrong_labels; scores
Negatives are hushed harder than positives, and quite dropped below `clip`, as unnoted labels need.
Three options; probabilities are not calibrated.

multilabel: classification.sigmoid_focal; imbalance; scores
One option, gamma, when easy answers of either kind drown the rest.
Not proper: calibrate before probabilities are used.

multilabel: classification.multilabel_margin; outliers; scores
When every label that holds must only come before every label that does not.
Its work grows with the square of the labels, and scores are no probabilities.

probabilistic: nll.gaussian; ; distribution
Start here: predict mean and log-variance of a normal distribution.
An outlier is paid for with variance everywhere near it.

probabilistic: nll.beta_gaussian; ; distribution
When the variance excuses a bad mean: beta = 0.5 gives badly fitted examples their pull back.
Not a likelihood any more: values of different beta cannot be compared.

probabilistic: nll.student_t; outliers, heavy_tails; distribution
Outliers are expected: with 4 degrees of freedom, say, they barely move the location.
Not convex in the location.

probabilistic: nll.laplace; heavy_tails; distribution
Median and spread together, convex in the location, and nothing to tune.
The kink at the median is seldom how errors really are distributed.

probabilistic: regression.quantiles; calibration, asymmetric_cost, heavy_tails; distribution
No shape is assumed: each level is exceeded as often as it says, and costs pick their level.
Quantiles may cross: sort them. Beyond the outermost level nothing is known.

probabilistic: nll.negative_binomial; heavy_tails; distribution
For counts that vary more than a Poisson's do.
One more parameter, which few examples determine badly.

probabilistic: nll.gamma; heavy_tails; distribution
For positive amounts whose spread grows with their size: durations, prices.
No target may be 0.

probabilistic: nll.gaussian_mixture; ; distribution
When several answers are right and their mean is none of them.
Not convex: components die or collapse onto single examples; bound the variances from below.

ranking: ranking.softmax; ; scores
Start here: convex, one relevant item or several, a cross-entropy over the list.
It looks at the whole list alike; the top counts no more than the rest.

ranking: ranking.approx_ndcg; ; scores
When NDCG is what is reported: a smooth version of it, in which the top counts most.
Not convex and flat far from the optimum: begin with `softmax`.

ranking: ranking.pairwise_logistic; ; scores
When what is known are preferences between pairs; `pair_weights` makes it LambdaRank.
Its work grows with the square of the list.

ranking: ranking.pairwise_soft_zero_one; wrong_labels, outliers; scores
Bounded: a pair that was noted the wrong way round costs 1 at most.
Not convex, and flat where the model is surely wrong.

segmentation: classification.softmax_cross_entropy; calibration; probabilities
Start here: every pixel counts alike.
Small objects hardly count.

segmentation: segmentation.dice; imbalance; overlap
When the object is small: what counts is the overlap, whatever the size of the background.
Uncalibrated, jumpy on empty masks: add it to the cross-entropy rather than replace that.

segmentation: segmentation.tversky; imbalance, asymmetric_cost; overlap
Dice with separate prices for false alarms and for what is missed.
Two options that trade precision for recall.

segmentation: segmentation.generalized_dice; imbalance; overlap
Several classes of very different sizes: each weighs by the inverse square of its area.
A class of a few pixels can rule the gradient.

sequence: classification.softmax_cross_entropy; calibration; probabilities
Start here when targets and outputs are aligned: a language model. Padding goes into `where`.
Every token counts alike: long sequences count more, unless weighted.

sequence: sequence.ctc; ; probabilities
When it is not known which frame belongs to which token: speech, handwriting.
Frames are independent given the logits, and there can be no more tokens than frames.

contrastive: contrastive.info_nce; ; embeddings
Start here for pairs: each key is told from all others in the batch.
It wants large batches, and a temperature that suits them.

contrastive: contrastive.clip; ; embeddings
For pairs of two kinds, pictures and captions: each finds the other among all others, both ways.
It wants large batches, and a temperature, which is learned as a rule.

contrastive: contrastive.siglip; ; embeddings
As clip, but each pair is a question of yes or no by itself: small batches, many devices.
Negatives outnumber positives, which its bias must make up for.

contrastive: contrastive.nt_xent; ; embeddings
For several views of one object, or for labels: all of one label are positives.
It wants large batches, and classes that are common in a batch rule it.

contrastive: contrastive.triplet; ; embeddings
When negatives are chosen with care, and the batch is small.
Most triplets are soon satisfied and teach nothing: mine for hard ones.

contrastive: contrastive.pair; ; embeddings
When what is known is only whether two objects belong together.
The margin fixes the scale of the embedding, and balanced pairs must be drawn.
"""
# Of every task, about whatever loss begins it.
MISSING = (
    "Say with `where` which are known (with `mask`, which items of a list): the rest count for "
    "nothing, in value, gradient and mean.",
    "Right if what is missing does not depend on its value; no loss can tell.",
)
