#include <nuclio_handler.hpp>

struct BigBody : nuclio::Handler {
    nuclio::Response handle(nuclio::Context &, const nuclio::Event &event) override {
        if (event.method() == "PUT") return std::to_string(event.body().size());
        return nuclio::Response().share(event.body());
    }
};

NUCLIO_EXPORT_HANDLER(BigBody)
