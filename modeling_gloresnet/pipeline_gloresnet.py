"""The pipeline for `pipeline("image-classification", model=folder, trust_remote_code=True)("scan.nii.gz")`."""

from transformers import Pipeline


class VolumeClassificationPipeline(Pipeline):
    """Classify scans. Returns labels with their probabilities from `predict_proba` as scores, highest first.

    Call it with a path, nibabel image, array or tensor, or a list of these. Keywords: `mask` (for models that need a
    brain mask), `test_time_augmentation`, `top_k`.
    """

    _load_processor = False
    _load_image_processor = True
    _load_feature_extractor = False
    _load_tokenizer = False

    def _sanitize_parameters(self, mask=None, test_time_augmentation=None, top_k=None, **kwargs):
        if kwargs:
            raise TypeError(
                f"The pipeline accepts mask, test_time_augmentation and top_k, not {', '.join(sorted(kwargs))}."
            )
        preprocess = {} if mask is None else {"mask": mask}
        forward = {} if test_time_augmentation is None else {"test_time_augmentation": test_time_augmentation}
        return preprocess, forward, {} if top_k is None else {"top_k": top_k}

    def preprocess(self, inputs, mask=None):
        if mask is None:
            return self.image_processor(inputs, return_tensors="pt")
        return self.image_processor(inputs, mask=mask, return_tensors="pt")

    def _forward(self, model_inputs, test_time_augmentation=None):
        return {"probabilities": self.model.predict_proba(model_inputs["pixel_values"], test_time_augmentation)}

    def postprocess(self, model_outputs, top_k=None):
        id2label = self.model.config.id2label
        scores = model_outputs["probabilities"][0].tolist()
        rows = [{"label": id2label[index], "score": score} for index, score in enumerate(scores)]
        return sorted(rows, key=lambda row: row["score"], reverse=True)[:top_k]
