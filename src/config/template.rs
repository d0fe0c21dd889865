//! The little of Go's templates that instance names use: text and `{{ .Field }}`.

/// Fills in the fields of a template; anything but text and fields is an error.
pub(super) fn render(template: &str, fields: &[(&str, &str)]) -> Result<String, String> {
    let mut output = String::new();
    let mut rest = template;
    while let Some((text, after)) = rest.split_once("{{") {
        let (action, mut after) = after.split_once("}}").ok_or("template: unclosed action")?;
        // A dash beside the braces trims blanks of the text next to it.
        let action = match action.strip_prefix("- ") {
            Some(action) => {
                output.push_str(text.trim_end());
                action
            }
            None => {
                output.push_str(text);
                action
            }
        };
        let action = match action.strip_suffix(" -") {
            Some(action) => {
                after = after.trim_start();
                action
            }
            None => action,
        };
        output.push_str(field(action.trim(), fields)?);
        rest = after;
    }
    output.push_str(rest);
    Ok(output)
}

fn field<'a>(action: &str, fields: &[(&str, &'a str)]) -> Result<&'a str, String> {
    let name = action.strip_prefix('.');
    let value = name.and_then(|name| fields.iter().find(|(other, _)| *other == name));
    value.map(|(_, value)| *value).ok_or_else(|| format!("template: cannot evaluate {action:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_filled_in_and_everything_else_is_refused() {
        let fields = [("Name", "n"), ("Namespace", "ns")];
        let cases = [
            ("one", Some("one")),
            ("{{ .Namespace }}-{{.Name}}", Some("ns-n")),
            ("a {{- .Name -}} b", Some("anb")),
            ("a {{- .Name }}|", Some("an|")),
            ("}} x", Some("}} x")),
            ("{{ .Image }}", None),
            ("{{ printf .Name }}", None),
            ("{{ .Name", None),
        ];
        for (template, expected) in cases {
            assert_eq!(render(template, &fields).ok().as_deref(), expected, "{template}");
        }
    }
}
