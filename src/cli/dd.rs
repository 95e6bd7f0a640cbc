//! What a user of dd types.

use super::values::size;
use crate::error::{Error, Result};

/// Fails if the arguments are dd's operands (`if=`, `of=`), with the same copy in the syntax of dio-cp as a hint.
pub fn refuse_dd_operands(arguments: &[String]) -> Result<()> {
    let value = |key: &str| arguments.iter().take_while(|word| *word != "--").find_map(|word| word.strip_prefix(key));
    let (from, to) = (value("if="), value("of="));
    if from.is_none() && to.is_none() {
        return Ok(());
    }
    let mut command = format!("dio-cp {} {}", from.unwrap_or("-"), to.unwrap_or("-"));
    if let Some(block_size) = value("bs=") {
        command += &format!(" -b {block_size}");
    }
    // dd counts in blocks, dio-cp in bytes.
    let block_size = size(value("bs=").unwrap_or("512")).unwrap_or(512);
    for (key, option) in [("skip=", "--skip"), ("count=", "--count"), ("seek=", "--seek")] {
        if let Some(blocks) = value(key).and_then(|value| value.parse::<u64>().ok()) {
            command += &format!(" {option} {}", blocks.saturating_mul(block_size));
        }
    }
    if value("conv=").is_some_and(|conv| conv.contains("notrunc")) && value("seek=").is_none() {
        command += " --in-place";
    }
    Err(Error::usage("if= and of= are operands of dd, not of dio-cp").hint(command))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dd_operands_get_the_right_command() {
        let hint = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_string).collect();
            refuse_dd_operands(&words).err().and_then(|e| e.hint)
        };
        assert_eq!(hint("if=/dev/zero of=x").as_deref(), Some("dio-cp /dev/zero x"));
        assert_eq!(hint("if=y").as_deref(), Some("dio-cp y -"));
        let long = "of=x if=y bs=4M count=3 seek=1 conv=notrunc,fsync oflag=direct status=progress";
        assert_eq!(hint(long).as_deref(), Some("dio-cp y x -b 4M --count 12582912 --seek 4194304"));
        assert_eq!(hint("a b"), None);
    }
}
