/* The public calls on a model, whatever its tier. */
#include "net/model.h"

#include <stdlib.h>

#include "ticks.h"

fm_status fm_forward(const fm_model *model, const fm_request *request, int *out_of_range) {
    return request->n == 0 ? FM_OK : model->tier->forward(model, request, out_of_range);
}

fm_status fm_logits(const fm_model *model, const float *features, size_t n, float *logits) {
    return model->has_logits ? model->tier->logits(model, features, n, logits) : FM_NO_LOGITS;
}

void fm_model_free(fm_model *model) {
    if (!model) return;
    fm_arena_free_all(model);
    fm_aligned_free(model->packed);
    free(model);
}

size_t fm_model_bytes(const fm_model *model) { return model->bytes; }

uint64_t fm_ticks(void) { return fm_read_ticks(); }
